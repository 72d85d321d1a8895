"""Do a file's columns carry the schema's names? The refusal names columns, and never the first row
of a file that has no header.
"""

import csv
import re
from collections.abc import Sequence

from fraudops.errors import DataError
from fraudops.schema import FeatureSchema

NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
SHOWN = 5


def check_header(names: Sequence[str], schema: FeatureSchema, where: str) -> None:
    """Raises DataError unless `names` are the schema's columns, each once, in any order."""
    expected, found = set(schema.columns), set(names)
    if not expected & found:
        raise DataError(
            f"{where}: {_no_header(names)}; it must name the columns: {_listed(schema.columns)}"
        )
    missing = [name for name in schema.columns if name not in found]
    extra = [name for name in names if name not in expected]
    if missing:
        raise DataError(
            f"{where}: {_columns(missing)} missing{_near(missing, extra)}; add {_them(missing)}, or give the schema of this file with --schema"
        )
    if extra:
        raise DataError(
            f"{where}: {_columns(extra)} not in the schema {schema.name!r}; remove {_them(extra)}, or give the schema of this file with --schema"
        )
    for name in schema.columns:
        if list(names).count(name) > 1:
            raise DataError(f"{where}: the column {name!r} stands there twice; remove one of them")


def check_carries(names: Sequence[str], wanted: Sequence[str], where: str) -> None:
    """Raises DataError unless each of `wanted` is among `names`, once; other columns may stand
    beside them.
    """
    if not set(wanted) & set(names):
        raise DataError(
            f"{where}: {_no_header(names)}; it must name the columns: {_listed(wanted)}"
        )
    missing = [name for name in wanted if name not in names]
    if missing:
        near = _near(missing, [name for name in names if name not in wanted])
        raise DataError(
            f"{where}: {_columns(missing)} missing{near}; add {_them(missing)}, or score with a version that was trained on this file's columns"
        )
    for name in wanted:
        if list(names).count(name) > 1:
            raise DataError(f"{where}: the column {name!r} stands there twice; remove one of them")


def _no_header(names: Sequence[str]) -> str:
    if len(names) == 1:
        for sign, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if sign in names[0]:
                return f"the columns are separated by {word}; save the file with commas"
    if any(NUMBER.fullmatch(name) for name in names):
        return "there is no header: the first line holds numbers"
    return "the first line names none of the schema's columns"


def _near(missing: list[str], extra: list[str]) -> str:
    """Points at names that differ in case or surrounding white space only."""
    plain = {name.strip().casefold(): name for name in extra}
    near = [
        f"{plain[name.casefold()]!r} is not {name!r}"
        for name in missing
        if name.casefold() in plain
    ]
    return f" ({'; '.join(near[:SHOWN])}: names must be exactly the same)" if near else ""


def _columns(names: list[str]) -> str:
    return (
        f"the column {_listed(names)} is"
        if len(names) == 1
        else f"the columns {_listed(names)} are"
    )


def _them(names: list[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:63]) if name else "(one without a name)" for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def first_record(line: str) -> list[str]:
    """The cells of a CSV's first line."""
    return next(csv.reader([line]), [])
