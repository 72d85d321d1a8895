import json
import logging
import subprocess
import sys

from fraudops.errors import StoreDownError
from fraudops.logs import JsonFormatter, describe


def line_of(**changes: object) -> dict[str, object]:
    record = logging.makeLogRecord(
        {"name": "fraudops.test", "levelname": "INFO", "msg": "shipped %d", "args": (3,)} | changes
    )
    text = JsonFormatter("shipper").format(record)
    assert "\n" not in text
    decoded: dict[str, object] = json.loads(text)
    return decoded


def test_a_line_is_one_json_object_with_the_extra_fields() -> None:
    line = line_of(rows=3, path=object)
    assert line["message"] == "shipped 3"
    assert line["program"] == "shipper"
    assert line["level"] == "info"
    assert line["rows"] == 3


def test_the_message_of_a_foreign_error_is_not_logged() -> None:
    try:
        raise ValueError("4111 1111 1111 1111")
    except ValueError as error:
        line = line_of(exc_info=(type(error), error, error.__traceback__))
    assert "4111" not in json.dumps(line)
    assert str(line["error"]).startswith("ValueError at ")
    assert "test_logs.py" in str(line["error"])


def test_the_message_of_our_own_error_is_kept() -> None:
    assert describe(StoreDownError("PostgreSQL is away")) == "StoreDownError: PostgreSQL is away"


def test_configured_logs_go_to_standard_error_from_their_level_on() -> None:
    program = (
        "import logging; from fraudops import logs; logs.configure('warning', 'x');"
        " logging.info('quiet'); logging.warning('loud')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    assert [json.loads(line)["message"] for line in done.stderr.splitlines()] == ["loud"]


def test_a_url_that_is_called_is_not_logged() -> None:
    program = (
        "import httpx; from fraudops import logs; logs.configure('debug', 'x');"
        " answer = lambda request: httpx.Response(200);"
        " client = httpx.Client(transport=httpx.MockTransport(answer), trust_env=False);"
        " client.get('http://me:hunter2@localhost/')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "hunter2" not in done.stderr


def test_a_crash_is_logged_with_its_places_but_without_its_message() -> None:
    program = "from fraudops import logs; logs.configure('info', 'x'); {}['4111111111111111']"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    [line] = [json.loads(text) for text in done.stderr.splitlines()]
    assert line["message"] == "crashed"
    assert line["error"].startswith("KeyError at ")
    assert line["trace"]
    assert "4111" not in done.stderr
