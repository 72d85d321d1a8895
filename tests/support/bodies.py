"""Request bodies of all kinds, for tests of the readers and of the service.

The strategies make raw bytes, because the interesting bodies are those that no encoder writes.
"""

from collections.abc import Callable, Mapping
from random import Random

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
SPACES = ("",) * 16 + (" ", "\n", "\t", "\r", "\x0b", "\u00a0")
INSERTED = (b"\xef\xbb\xbf", b"}", b"]", b'"', b"\\", b",", b":", b"\x00", b"\xff", b"NaN", b"0")
# One draw for each object or change. A draw for each of their parts would take 20 times as long.
_seeds = st.integers(0, 1 << 32)
ROW_BYTES = 64 << 10


def objects(members: Mapping[str, str]) -> st.SearchStrategy[bytes]:
    """Objects with about these members; each of `members` is a name and a valid value.

    Some lack a member, repeat one, or have a wrong value, another name or odd white space.
    """
    return st.builds(lambda seed: _object(members, Random(seed)), _seeds)


def spliced(bodies: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """The bodies, and the same with bytes put in, overwritten or cut off somewhere."""
    return st.one_of(
        bodies, st.builds(lambda body, seed: _changed(body, Random(seed)), bodies, _seeds)
    )


def lists(key: str, rows: st.SearchStrategy[bytes], most: int = 12) -> st.SearchStrategy[bytes]:
    """Bodies `{key: [row, …]}`, some without the brace or colon, or with more around."""

    def body(seed: int, rows: list[bytes]) -> bytes:
        random = Random(seed)
        before = random.choice(("",) * 16 + (" ", '"more":1,', "\ufeff"))
        after = random.choice(("",) * 16 + (" ", ',"more":1', f',"{key}":[]', ",", "]", "\x00"))
        comma = random.choice((",",) * 16 + (" , ", ",\n ", "\x0b,", ",,", " "))
        brace, colon = random.choice((("{", ":"),) * 16 + (("", ":"), ("{", ""), ("", "")))
        start, end = f'{brace}{before}"{key}"{colon}[', f"]{after}}}"
        return start.encode() + comma.encode().join(rows) + end.encode()

    return st.builds(body, _seeds, st.lists(rows, max_size=most))


def _object(members: Mapping[str, str], random: Random) -> bytes:
    pairs = list(members.items())
    if random.random() < 0.2:
        pairs = random.sample(pairs, random.randrange(len(pairs) + 1))
    names = [*members, *members, *map(_escaped, members), *NAMES]
    for _ in range(random.choice((0, 0, 0, 1, 1, 2))):
        odd = (random.choice(names), random.choice((*VALUES, *members.values())))
        # In the place of a member, or as one more.
        at = random.randrange(len(pairs) + 1)
        pairs[at : at + random.choice((0, 1))] = [odd]
    random.shuffle(pairs)
    space = random.choice(SPACES)
    written = (f'{space}"{name}"{space}:{space}{value}{space}' for name, value in pairs)
    return f"{space}{{{','.join(written)}}}{space}".encode("utf-8", "surrogatepass")


def _changed(body: bytes, random: Random) -> bytes:
    # A third at each end: the beginning and the end of a list are read by rules of their own.
    first, last = random.choice(((0, len(body)), (0, 12), (len(body) - 6, len(body))))
    at = min(max(random.randint(first, last), 0), len(body))
    put = random.choice((b"", random.choice(INSERTED), random.randbytes(random.randrange(3))))
    lost = random.choice((0, 0, 1, 3, len(body)))
    return body[:at] + put + body[at + lost :]


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

    def of_rows(unit: bytes, start: bytes, end: bytes) -> Callable[[], bytes]:
        """Make rows just below 64 KiB, which may be explained."""
        inside = unit * ((ROW_BYTES - 2 - len(start) - len(end)) // len(unit))
        return filled(start + inside + end + b",", end=b"{}]}")

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
        "rows of lists": of_rows(b"[],", b'{"a":[', b"0]}"),
        "rows of objects": of_rows(b"{},", b'{"a":[', b"0]}"),
        "rows of texts": of_rows(b'"",', b'{"a":[', b"0]}"),
        "rows of NaN": of_rows(b"NaN,", b'{"V1":[', b"0]}"),
        "rows of one field": of_rows(b'"V1":5e-324,', b"{", b'"a":0}'),
        "rows of a long name": of_rows(b"a", b'{"12345', b'":0}'),
        "rows of many names": filled(
            b"{%b}," % b",".join(b'"a%d":0' % each for each in range(75)), end=b"{}]}"
        ),
    }


def malformed_tensors(features: int, size: int) -> dict[str, Callable[[], bytes]]:
    """Makers of malformed bodies for /v2/models/NAME/infer of at most `size` bytes."""
    # 1e300 is a number for which the decoder takes long.
    row = b'{"inputs":[{"name":"x","datatype":"FP64","shape":[10000,%d],"data":[' % features

    def filled(unit: bytes, start: bytes, end: bytes, much: int = size) -> Callable[[], bytes]:
        return lambda: start + unit * ((much - len(start) - len(end)) // len(unit)) + end

    def lists(unit: bytes, units: int) -> Callable[[], bytes]:
        return filled(b'{"data":[%b]},' % (unit * units), b'{"inputs":[', b"{}]}")

    return {
        "lists of rows": lists(b"[],", 9_990),
        "lists of texts": lists(b'"",', 9_990),
        "lists of zeros": lists(b"0,", 30_000),
        "slow numbers": filled(b"1e300,", row, b"0]}]}"),
        "a row of slow numbers": filled(b"1e300,", row + b"[", b"0]]}]}"),
        "lists without a tensor": filled(b"[],", b'{"a":[', b"0]}", min(size, 64 << 10)),
    }
