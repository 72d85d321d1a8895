"""`fraudops api-keys`: the file that it writes, and that a key is shown once only."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from fraudops.api_keys import ApiKey, digest_of, read_api_keys, write_api_keys
from fraudops.state import State
from jobs.api_keys import command
from tests.support.commands import Caller, CommandResult

FILE_VARIABLE = "FRAUDOPS_CLIENT_AUTH__KEYS_FILE"


@pytest.fixture
def api_keys(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Caller:
    return Caller("api-keys", command, monkeypatch, capsys)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "clients.json"


def make(api_keys: Caller, file: Path, *options: str) -> str:
    """Make a key of the client `shop`, and return it."""
    given = ("--client", "shop", "--scope", "predict", "--file", file)
    done = api_keys("new", *given, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def listed(api_keys: Caller, file: Path) -> list[dict[str, Any]]:
    done = api_keys("list", "--json", "--file", file)
    assert done.returncode == 0, done.stderr
    shown: list[dict[str, Any]] = json.loads(done.stdout)
    return shown


def test_a_key_is_printed_once_and_its_hash_is_kept(api_keys: Caller, file: Path) -> None:
    done = api_keys(
        "new",
        *("--client", "shop", "--scope", "predict", "--scope", "feedback", "--scope", "predict"),
        *("--expires", "2199-12-31", "--rate", "2.5", "--file", file),
    )
    assert done.returncode == 0, done.stderr
    key = done.stdout.strip()
    assert key not in done.stderr
    assert key not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (entry,) = read_api_keys(file).values()
    assert entry == ApiKey(
        name="shop",
        sha256=digest_of(key).hex(),
        scopes=("predict", "feedback"),
        expires=entry.expires,
        rate_per_second=2.5,
    )
    assert str(entry.expires) == "2199-12-31 00:00:00+00:00"
    shown = api_keys("list", "--file", file)
    assert key not in shown.stdout + shown.stderr
    for word in ("shop", entry.id, "predict feedback", "2199-12-31T00:00+00:00", "2.5"):
        assert word in shown.stdout
    as_json = json.loads(
        api_keys(*("new", "--client", "desk", "--scope", "read", "--json", "--file", file)).stdout
    )
    assert digest_of(as_json["key"]) in read_api_keys(file)
    assert (as_json["client"], as_json["scopes"]) == ("desk", ["read"])


def test_without_a_key_the_list_is_empty_and_says_what_to_do(api_keys: Caller, file: Path) -> None:
    assert listed(api_keys, file) == []
    shown = api_keys("list", "--file", file)
    assert (shown.returncode, shown.stdout) == (0, "")
    assert "has no key: `fraudops api-keys new` makes one" in " ".join(shown.stderr.split())


def test_a_client_may_have_two_keys_and_loses_the_one_that_is_named(
    api_keys: Caller, file: Path
) -> None:
    old, new = make(api_keys, file), make(api_keys, file)
    first, second = (entry["id"] for entry in listed(api_keys, file))
    assert digest_of(old).hex().startswith(first)
    done = api_keys("remove", first, "--file", file)
    assert (done.returncode, done.stdout) == (0, f"{first} of shop: removed\n")
    assert list(read_api_keys(file)) == [digest_of(new)]
    make(api_keys, file)
    assert api_keys("remove", "--client", "shop", "--file", file).returncode == 0
    assert file.read_text() == '{"keys": []}\n'
    assert second not in api_keys("list", "--file", file).stdout


def test_one_character_names_no_key(api_keys: Caller, file: Path) -> None:
    key = make(api_keys, file)
    for start in ("", digest_of(key).hex()[:3], "0" * 64, "nonsense"):
        done = api_keys("remove", start, "--file", file)
        assert (done.returncode, "no such key" in done.stderr) == (64, True)
    for wrong in ((), (digest_of(key).hex(), "--client", "shop")):
        done = api_keys("remove", *wrong, "--file", file)
        assert (done.returncode, "either" in done.stderr) == (64, True)
    done = api_keys("remove", "--client", "other", "--file", file)
    assert (done.returncode, "no such key" in done.stderr) == (64, True)
    assert len(read_api_keys(file)) == 1


def test_the_start_of_two_keys_removes_none(api_keys: Caller, file: Path) -> None:
    file.parent.mkdir()
    alike = [
        ApiKey(name="shop", sha256="abcd" + end * 60, scopes=("predict",)) for end in ("1", "2")
    ]
    write_api_keys(file, alike)
    done = api_keys("remove", "abcd", "--file", file)
    assert (done.returncode, "give more of the ID" in done.stderr) == (64, True)
    assert list(read_api_keys(file).values()) == alike
    assert api_keys("remove", "abcd1", "--file", file).returncode == 0
    assert list(read_api_keys(file).values()) == alike[1:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--client", "a b"), "1 to 64 letters"),
        (("--client", "a" * 65), "1 to 64 letters"),
        (("--scope", "admin"), "'admin' is not one of"),
        (("--expires", "tomorrow"), "such as 2027-01-31"),
        (("--expires", "2020-01-01"), "it has passed"),
        (("--rate", "0"), "0"),
        (("--rate", "nan"), "give a number"),
        (("--rate", "inf"), "give a number"),
    ],
)
def test_a_wrong_option_writes_nothing(
    api_keys: Caller, file: Path, options: tuple[str, ...], message: str
) -> None:
    given = {"--client": "shop", "--scope": "predict", "--file": str(file)}
    given[options[0]] = options[1]
    done = api_keys("new", *(word for option in given.items() for word in option))
    assert done.returncode == 64
    assert message in done.stderr
    assert not file.exists()


def test_a_damaged_file_is_neither_replaced_nor_quoted(api_keys: Caller, file: Path) -> None:
    file.parent.mkdir()
    file.write_text('{"keys": ["fo_correct-horse"]}')
    given = ("--client", "shop", "--scope", "predict", "--file", file)
    for arguments in (
        ("new", *given),
        ("list", "--file", file),
        ("remove", "abcd", "--file", file),
    ):
        done = api_keys(*arguments)
        assert (done.returncode, str(file) in done.stderr) == (64, True)
        assert "horse" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    assert "horse" in file.read_text()


def test_a_folder_that_cannot_be_written_is_named(api_keys: Caller, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "keys.json"
    done = api_keys("new", "--client", "shop", "--scope", "read", "--file", path)
    assert (done.returncode, f"{path} cannot be written" in done.stderr) == (64, True)
    assert done.stdout == ""


def test_without_a_file_the_keys_are_in_the_state_folder_or_where_the_service_reads(
    api_keys: Caller, tmp_path: Path, file: Path
) -> None:
    state = State.at(tmp_path / "state")

    def made(**environment: str) -> CommandResult:
        given = ("--client", "shop", "--scope", "predict", "--state", state.root)
        return api_keys("new", *given, **environment)

    assert made().returncode == 0
    assert len(read_api_keys(state.client_keys)) == 1
    assert made(**{FILE_VARIABLE: str(file)}).returncode == 0
    assert len(read_api_keys(file)) == 1


def test_an_expired_key_is_marked(api_keys: Caller, file: Path) -> None:
    make(api_keys, file)
    file.write_text(
        file.read_text().replace('["predict"]', '["read"],"expires":"2020-01-01T00:00:00Z"')
    )
    assert "expired 2020-01-01T00:00+00:00" in api_keys("list", "--file", file).stdout
