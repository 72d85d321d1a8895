"""Checks the column names of a file against a schema.

A message never quotes the first row of a file without a header, because that row is card data.
"""

import csv
import re
from collections.abc import Sequence

from fraudops.errors import DataError
from fraudops.schema import FeatureSchema

NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
SHOWN = 5


def check_header(names: Sequence[str], schema: FeatureSchema, where: str) -> None:
    """Check that `names` are the schema's columns, each once, in any order. Raises DataError."""
    expected, present = set(schema.columns), set(names)
    if not expected & present:
        raise DataError(
            f"{where}: {_no_header(names)}; it must name the columns: {_listed(schema.columns)}"
        )
    missing = [name for name in schema.columns if name not in present]
    extra = [name for name in names if name not in expected]
    if missing:
        raise DataError(
            f"{where}: {_columns(missing)} missing{_near(missing, extra)}; "
            f"add {_them(missing)}, or give the schema of this file with --schema"
        )
    if extra:
        raise DataError(
            f"{where}: {_columns(extra)} not in the schema {schema.name!r}; "
            f"remove {_them(extra)}, or give the schema of this file with --schema"
        )
    _check_once(names, schema.columns, where)


def check_carries(names: Sequence[str], required: Sequence[str], where: str) -> None:
    """Check that `names` has each of `required` once; it may have other columns too.

    Raises DataError.
    """
    if not set(required) & set(names):
        raise DataError(
            f"{where}: {_no_header(names)}; it must name the columns: {_listed(required)}"
        )
    missing = [name for name in required if name not in names]
    if missing:
        near = _near(missing, [name for name in names if name not in required])
        raise DataError(
            f"{where}: {_columns(missing)} missing{near}; add {_them(missing)}, "
            "or score with a version that was trained on this file's columns"
        )
    _check_once(names, required, where)


def _check_once(names: Sequence[str], required: Sequence[str], where: str) -> None:
    for name in required:
        if list(names).count(name) > 1:
            raise DataError(f"{where}: the column {name!r} occurs twice; remove one of them")


def _no_header(names: Sequence[str]) -> str:
    if len(names) == 1:
        for sign, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if sign in names[0]:
                return f"the columns are separated by {word}; save the file with commas"
    if any(NUMBER.fullmatch(name) for name in names):
        return "there is no header: the first line holds numbers"
    return "the first line names none of the schema's columns"


def _near(missing: list[str], extra: list[str]) -> str:
    """Return a hint at names that differ only in case or in surrounding white space."""
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
    """Return the cells of a CSV's first line."""
    return next(csv.reader([line]), [])
