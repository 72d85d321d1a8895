"""Logs as one line of JSON per event, on standard error.

A line contains the type of an exception and the place that raised it. It omits the message of a
foreign exception, because that message may quote card data.
"""

import logging
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import msgspec

from fraudops.errors import FraudopsError

# The attributes of every log record. All others are from the caller's `extra`.
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class JsonFormatter(logging.Formatter):
    """Format a log record as JSON.

    `logger.info("text", extra={"rows": 3})` becomes an object with the fields `at`, `level`,
    `program`, `logger`, `message` and `rows`.
    """

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "program": self._program,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _PLAIN}
        if record.exc_info and record.exc_info[1]:
            line["error"] = describe(record.exc_info[1])
        return msgspec.json.encode(line, enc_hook=str).decode()


def describe(error: BaseException) -> str:
    """Return the type of an error and the line that raised it.

    For a FraudopsError the result also has its message, which never contains card data.
    """
    name = (
        f"{type(error).__name__}: {error}"
        if isinstance(error, FraudopsError)
        else type(error).__name__
    )
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{name} at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else name


def configure(level: str, program: str) -> None:
    """Log events of `level` and above to standard error only, uncaught exceptions included.

    Call it once, in `main()`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(program))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # It logs each URL that it calls, and a URL may hold a password.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    sys.excepthook = _crashed


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(trace)]
    logging.getLogger(__name__).critical(
        "crashed", exc_info=(kind, error, trace), extra={"trace": places}
    )
