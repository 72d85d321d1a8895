"""The JSON of a request of the Open Inference Protocol, without the values of its tensors."""

import re
from itertools import pairwise
from typing import Annotated

import msgspec

from services.inference.reading.faults import (
    REFUSALS,
    FaultCode,
    FaultError,
    FieldFault,
    not_json,
)
from services.inference.reading.foreign_forms import foreign_form
from services.inference.reading.identifiers import Identifier
from services.inference.reading.outline import TOO_MANY_ROWS, Outline
from services.inference.reading.rows import BATCH_ROWS
from services.inference.reading.tensor_types import Where
from services.inference.reading.wording import in_words

SEND = '{"inputs": [{"name", "shape", "datatype", "data"}, …]}'
MOST_ID = 256
# The keys whose lists an outline lacks.
LISTS = frozenset({"data", "transaction_ids", "entity_keys"})
# In an outline, the number of a list that was cut out.
_Cut = Annotated[list[int], msgspec.Meta(min_length=1, max_length=1)]
_AT = re.compile(r" - at `\$\.?(?P<path>[\w.\[\]]*)`")
_MISSING = re.compile(r"Object missing required field `(?P<name>\w+)`")
_PLACE = re.compile(r"\(byte (\d+)\)")


class TensorParameters(msgspec.Struct):
    """The parameters of one tensor. Unknown ones are ignored, as the protocol allows."""

    binary_data_size: Annotated[int, msgspec.Meta(ge=0)] | None = None


class Tensor(msgspec.Struct):
    """One tensor of a request; `data` is the number of its list in the outline."""

    name: str
    shape: list[int]
    datatype: str
    parameters: TensorParameters | None = None
    data: _Cut | None = None

    @property
    def binary_bytes(self) -> int | None:
        return self.parameters.binary_data_size if self.parameters else None


class RequestParameters(msgspec.Struct):
    """The ids of the transactions: of a single one, or one for each row."""

    transaction_id: Identifier | None = None
    entity_key: Identifier | None = None
    transaction_ids: _Cut | None = None
    entity_keys: _Cut | None = None


class RequestedOutput(msgspec.Struct):
    """An output that the client wants. Its parameters are ignored: all answers are JSON."""

    name: str


class Envelope(msgspec.Struct):
    """A request. Other fields, such as the name of the model, are ignored."""

    inputs: Annotated[list[Tensor], msgspec.Meta(min_length=1)]
    id: Annotated[str, msgspec.Meta(max_length=MOST_ID)] | None = None
    parameters: RequestParameters | None = None
    outputs: list[RequestedOutput] | None = None


_decode = msgspec.json.Decoder(Envelope).decode


def read_envelope(found: Outline) -> Envelope:
    """Decode an outline. Raises FaultError."""
    if not found.json.strip(b" \t\r\n"):
        raise body_fault("is empty", "empty")
    try:
        found.json.decode()
    except UnicodeDecodeError:
        raise body_fault("is not UTF-8", "not_utf8") from None
    try:
        return _decode(found.json)
    except msgspec.ValidationError as error:
        names = sorted(found.names - {"inputs"})
        foreign = None if "inputs" in found.names else foreign_form(names, SEND)
        raise FaultError(foreign or _in_words(str(error))) from None
    except REFUSALS as error:
        place = _PLACE.search(str(error))
        raise FaultError(
            not_json(found.place(int(place[1]) if place else len(found.json)))
        ) from None


def _in_words(message: str) -> FieldFault:
    at = _AT.search(message)
    path = f"at {at['path']} " if at and at["path"] else ""
    if missing := _MISSING.match(message):
        return FieldFault(reason=f"{path}lacks the field {missing['name']}", code="missing")
    if "of length" in message:
        return FieldFault(reason=f"{path}is empty or too long", code="too_large")
    reason, code = in_words(message)
    return FieldFault(reason=f"{path}{reason}", code=code)


def binary_parts(envelope: Envelope, body: bytes, json_bytes: int) -> list[memoryview | None]:
    """Return the binary data of each tensor, or None if it has none. Raises FaultError."""
    sizes = [tensor.binary_bytes for tensor in envelope.inputs]
    ends = [json_bytes]
    for size in sizes:
        ends.append(ends[-1] + (size or 0))
    if ends[-1] != len(body):
        raise body_fault(
            "has more or fewer bytes than Inference-Header-Content-Length and the"
            " binary_data_size of its tensors say"
        )
    for index, tensor in enumerate(envelope.inputs):
        if tensor.data is not None and tensor.binary_bytes is not None:
            raise Where(None, index).fault("has both data and a binary_data_size")
    view = memoryview(body)
    return [
        None if size is None else view[start:end]
        for size, (start, end) in zip(sizes, pairwise(ends), strict=True)
    ]


def column_rows(where: Where, tensor: Tensor, rows: int | None) -> int:
    """Return the rows of a tensor of one column, which must be `rows`. Raises FaultError."""
    shape = tensor.shape
    if len(shape) not in (1, 2) or shape[1:] not in ([], [1]):
        raise where.fault("must have the shape [n] or [n, 1]")
    if rows is not None and shape[0] != rows:
        raise where.fault("has another number of rows than the tensors before it")
    return checked_rows(shape[0])


def checked_rows(rows: int) -> int:
    """Raises FaultError."""
    if rows < 1:
        raise body_fault("must hold at least one row", "empty")
    if rows > BATCH_ROWS:
        raise FaultError(TOO_MANY_ROWS)
    return rows


def body_fault(reason: str, code: FaultCode = "other") -> FaultError:
    """Return the fault of a whole request."""
    return FaultError(FieldFault(reason=reason, code=code))
