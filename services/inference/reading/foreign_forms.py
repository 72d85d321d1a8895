"""Bodies in the forms of other prediction servers, recognised by their first-level names."""

import re
from collections.abc import Iterable

from services.inference.reading.faults import FieldFault

_FORMS = {
    "instances": "KServe V1",
    "dataframe_split": "MLflow",
    "dataframe_records": "MLflow",
    "inputs": "the Open Inference Protocol",
}
_NAME = re.compile(rb'"(%b)"[ \t\r\n]*+:' % "|".join(_FORMS).encode())


def foreign_form(names: Iterable[str], send: str) -> FieldFault | None:
    """Return the fault if one of the names is that of another server's form.

    `send` says in words what this service takes.
    """
    for name in names:
        if name in _FORMS:
            way = "send it to /v2/models/NAME/infer, or send" if name == "inputs" else "send"
            return FieldFault(
                reason=f"has the form of {_FORMS[name]} ({name}): {way} {send}",
                code="foreign_form",
            )
    return None


def foreign_names(start: bytes) -> list[str]:
    """Return the names of other servers' forms in the first bytes of a body."""
    return [name.decode() for name in _NAME.findall(start)]
