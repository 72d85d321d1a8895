"""Request bodies of all kinds, for tests of the readers and of the service.

The strategies make raw bytes, because the interesting bodies are those that no encoder writes.
"""

from collections.abc import Callable, Mapping, Sequence

from hypothesis import strategies as st

# Values as a client could write them, right and wrong.
VALUES = (
    *("0", "1.5", "-0", "1E+2", "9e-3", "11", "-11", "1.0", "1e0", "9007199254740993"),
    *("1e400", "-1e999", "1" + "0" * 400, "9" * 4301, "0." + "3" * 5000),
    *("NaN", "-NaN", "Infinity", "-Infinity", "nan", "01", "1.", ".5", "+1", "1e", "-", "tru"),
    *("null", "true", "false", "[]", "{}", "[1]", '{"a":1}', "[NaN]", "[" * 70 + "]" * 70),
    *('"x"', '""', '"t-1:a.b_c"', '"two words"', '"\\u0041"', '"\\ud800"', '"\\ud83d\\ude00"'),
    *('"NaN"', '": NaN ,"', '"a\\"b"', '"},{"', '"\\\\"', '"\\', '"', '"a\nb"', '"\u00e9"', ""),
    *('"2026-01-31T12:00:00Z"', '"2026-01-31t12:00:00.123456789012345678901234567890z"'),
    *('"2026-01-31T12:00:00"', '"9999-12-31T23:59:59-12:00"', '"0001-01-01T00:00:00+12:00"'),
    *('"0000-01-01T00:00:00Z"', '"2016-12-31T23:59:60Z"', '"2026-01-31T12:00:00+24:00"'),
    *('"2026-01-31T12:00:00+23:59"', '"2026-01-31T12:00:00\\u005a"', '"1969-12-31T23:59:59Z"'),
    *('"01a20421-f1ac-7787-bb90-3e64b77a3937"', '"01A20421F1AC7787BB903E64B77A3937"'),
)
NAMES = ("other", "", "4111111111111111", "a b", "\\ud800", "\\u0061", "\u00e9", "inputs")
_values = st.one_of(st.sampled_from(VALUES), st.floats().map(str), st.integers().map(str))
_spaces = st.sampled_from(["", "", "", " ", "\n", "\t", "\r", "\x0b", "\xa0"])


def objects(members: Mapping[str, str]) -> st.SearchStrategy[bytes]:
    """Objects with about these members; each of `members` is a name and a valid value.

    Some lack a member, repeat one, or have a wrong value, another name or odd white space.
    """
    valid = st.fixed_dictionaries(
        {}, optional={name: st.just(value) for name, value in members.items()}
    )
    complete = st.just(dict(members))
    names = st.sampled_from([*members, *map(_escaped, members), *NAMES])
    odd = st.lists(st.tuples(names, _values), max_size=2)
    return st.builds(
        _object, st.one_of(complete, complete, valid), odd, _spaces, st.randoms(use_true_random=False)
    )


def spliced(bodies: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """The bodies, and the same with bytes put in, overwritten or cut off somewhere."""
    return st.one_of(
        bodies,
        st.builds(
            lambda body, share, put, lost: (
                body[: int(share * len(body))] + put + body[int(share * len(body)) + lost :]
            ),
            bodies,
            st.floats(0, 1),
            st.one_of(st.binary(max_size=3), st.sampled_from([b"\xef\xbb\xbf", b"}", b"]", b'"'])),
            st.sampled_from([0, 0, 1, 3, 1 << 20]),
        ),
    )


def lists(key: str, rows: st.SearchStrategy[bytes], most: int = 12) -> st.SearchStrategy[bytes]:
    """Bodies of the form `{key: [row, …]}`, some with something before or after the list."""
    after = st.sampled_from(["", "", "", " ", ',"more":1', f',"{key}":[]', ",", "]", "\x00"])
    before = st.sampled_from(["", "", "", " ", '"more":1,', "\ufeff"])
    return st.builds(
        lambda before, rows, comma, after: (
            f'{{{before}"{key}":['.encode() + comma.encode().join(rows) + f"]{after}}}".encode()
        ),
        before,
        st.lists(rows, max_size=most),
        st.sampled_from([",", ",", ",", " , ", ",\n ", "\x0b,", ",,", " "]),
        after,
    )


def _object(members: dict[str, str], odd: Sequence[tuple[str, str]], space: str, random: object) -> bytes:
    pairs = [*members.items(), *odd]
    random.shuffle(pairs)  # type: ignore[attr-defined]
    written = (f"{space}{_quoted(name)}{space}:{space}{value}{space}" for name, value in pairs)
    return f"{space}{{{','.join(written)}}}{space}".encode("utf-8", "surrogatepass")


def _quoted(name: str) -> str:
    return f'"{name}"'


def _escaped(name: str) -> str:
    return f"\\u{ord(name[0]):04x}{name[1:]}"


def malformed(row: bytes, size: int) -> dict[str, Callable[[], bytes]]:
    """Makers of malformed bodies for /predict/batch of `size` bytes, by their kinds.

    `row` is a valid row of the served schema. The kinds are those that once stopped a worker for
    seconds, or that the reader's limits are about.
    """
    head, much = b'{"transactions":[', size

    def filled(unit: bytes, start: bytes = head, end: bytes = b"]}") -> Callable[[], bytes]:
        return lambda: start + unit * ((much - len(start) - len(end)) // len(unit)) + end

    rows = filled(row + b",", end=b"{}]}")
    # So large that fewer than 10,000 of them fill the body.
    large = row[:-1] + b" " * (much // 9_900 - len(row)) + b"},"
    return {
        "zeros": filled(b"0,", end=b"0]}"),
        "NaN": filled(b"NaN,", end=b"0]}"),
        "rows with NaN": filled(b'{"V1":NaN},', end=b"{}]}"),
        "empty rows": filled(b"{},", end=b"{}]}"),
        "good rows and too many": rows,
        "large good rows, then a bad one": filled(large, end=b"{}]}"),
        "a bad row, then large good ones": filled(large, head + b"{},", row + b"]}"),
        "one string": filled(b"a", head + b'"', b'"]}'),
        "backslashes": filled(b"\\", head + b'{"V1":"', b'"}]}'),
        "quotes": filled(b'"', head, b"]}"),
        "open brackets": filled(b"[", head, b""),
        "closed and open brackets": filled(b"[],", head + b"[", b"[]]]}"),
        "spaces": filled(b" ", b"", b""),
        "spaces in the list": filled(b" ", head, b"]}"),
        "closing bracket and spaces": filled(b"} ", head + row, b"]}"),
        "spaces after the list": filled(b" ", head + row + b"]", b"x"),
        "broken at its beginning": filled(b"0,", b'{"transactions":[[}', b"0]}"),
        "another list": filled(b"0,", b'{"transactions":[' + row + b'],"other":[', b"0]}"),
    }
