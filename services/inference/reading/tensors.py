"""Requests of the Open Inference Protocol: JSON, or JSON and then the tensors' bytes.

The features are one tensor of shape [n, features] or [features], or one tensor a feature of shape
[n] or [n, 1]. The protocol's document is that of KServe, "Open Inference Protocol".
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from services.inference.reading.envelopes import (
    LISTS,
    Envelope,
    RequestParameters,
    Tensor,
    binary_parts,
    body_fault,
    checked_rows,
    column_rows,
    read_envelope,
)
from services.inference.reading.faults import (
    REPORTED_FAULTS,
    FaultError,
    FieldFault,
    InvalidBodyError,
)
from services.inference.reading.outline import Outline, outline
from services.inference.reading.row_count import RowCount
from services.inference.reading.scanning import CHUNK
from services.inference.reading.tensor_types import (
    BYTES,
    NUMBERS,
    Where,
    ids_of_bytes,
    ids_of_list,
    numbers_of_bytes,
    numbers_of_list,
)
from services.inference.reading.transactions import TransactionReader
from services.inference.reading.turns import TurnBudget

IDS = ("transaction_id", "entity_key")
# Of ids, as tensors and as parameters.
ID_LISTS = 2 * len(IDS)


@dataclass(frozen=True)
class TensorRequest:
    """The transactions of one request.

    `id` is the client's id of the request. `outputs` are the names of the outputs that it wants,
    or None. `columns` are arrays of `rows` rows that together have the schema's features in order.
    `ids` has a pair of transaction_id and entity_key for each row.
    """

    id: str | None
    outputs: tuple[str, ...] | None
    rows: int
    reader: TransactionReader
    columns: Sequence[NDArray[Any]]
    ids: Sequence[tuple[str | None, str | None]]

    async def chunks(self) -> AsyncIterator[list[Any]]:
        """Yield the transactions, CHUNK at a time; other requests may run in between.

        No row follows a faulty one. Raises InvalidBodyError at the end: with the first fault of up
        to REPORTED_FAULTS rows, or with all faults of a single row.
        """
        faults: list[FieldFault] = []
        for first in range(0, self.rows, CHUNK):
            if first:
                await asyncio.sleep(0)
            x = self._matrix(first)
            faults += self._faults(first, x)
            if len(faults) >= REPORTED_FAULTS:
                break
            if not faults:
                yield self.reader.transactions(x, self.ids[first : first + CHUNK])
        if faults:
            raise InvalidBodyError(faults)

    def _matrix(self, first: int) -> NDArray[np.float64]:
        rows = min(CHUNK, self.rows - first)
        x = np.empty((rows, self.reader.features))
        at = 0
        for column in self.columns:
            x[:, at : at + column.shape[1]] = column[first : first + rows]
            at += column.shape[1]
        return x

    def _faults(self, first: int, x: NDArray[np.float64]) -> list[FieldFault]:
        found = self.reader.faults_of(x)
        if self.rows == 1:
            return [msgspec.structs.replace(fault, index=None) for fault in found]
        # The last chunk may have a single row, of which all faults are found.
        return [
            msgspec.structs.replace(fault, index=first + (fault.index or 0))
            for fault in (found[:1] if len(x) == 1 else found)
        ]


async def read_tensors(
    reader: TransactionReader,
    body: bytes,
    json_bytes: int | None,
    count: RowCount | None = None,
) -> TensorRequest:
    """Read a request of which the first `json_bytes` bytes are JSON, by default all.

    The values of the features are checked later, by `TensorRequest.chunks`. Raises
    InvalidBodyError.
    """
    try:
        if json_bytes is not None and json_bytes > len(body):
            raise body_fault("is shorter than Inference-Header-Content-Length says")
        json = body if json_bytes is None else body[:json_bytes]
        turn = TurnBudget()
        found = await outline(json, LISTS, reader.features + ID_LISTS, turn)
        envelope = read_envelope(found)
        binary = binary_parts(envelope, body, len(json))
        return await _Reading(
            reader, json, found, envelope, binary, count or RowCount(), turn
        ).run()
    except FaultError as error:
        raise InvalidBodyError([error.fault]) from None


class _Reading:
    """The reading of the tensors of one envelope."""

    def __init__(
        self,
        reader: TransactionReader,
        json: bytes,
        found: Outline,
        envelope: Envelope,
        binary: Sequence[memoryview | None],
        count: RowCount,
        turn: TurnBudget,
    ) -> None:
        self._reader, self._json, self._found, self._count = reader, json, found, count
        self._envelope, self._binary, self._turn = envelope, binary, turn
        # The lists that a field of the protocol names; no other list may be in the body.
        self._used = 0

    async def run(self) -> TensorRequest:
        envelope, names = self._envelope, self._reader.names
        places = {tensor.name: index for index, tensor in enumerate(envelope.inputs)}
        if len(places) < len(envelope.inputs):
            raise body_fault("has two tensors of one name", "repeated_key")
        ids = {name: places.pop(name) for name in IDS if name in places}
        if len(places) == 1 and (len(names) > 1 or names[0] not in places):
            (index,) = places.values()
            rows, columns = await self._one_tensor(index)
        else:
            rows, columns = await self._tensor_of_each_feature(places)
        pairs = [await self._ids(name, ids.get(name), rows) for name in IDS]
        if self._used < len(self._found.lists):
            raise body_fault("has a list of values that belongs to no tensor", "unknown_field")
        outputs = tuple(output.name for output in envelope.outputs or ())
        return TensorRequest(
            envelope.id or None,
            outputs or None,
            rows,
            self._reader,
            columns,
            list(zip(*pairs, strict=True)),
        )

    async def _one_tensor(self, index: int) -> tuple[int, list[NDArray[Any]]]:
        tensor, width = self._envelope.inputs[index], self._reader.features
        where = Where(None, index)
        shape = tensor.shape if len(tensor.shape) > 1 else [1, *tensor.shape]
        if len(shape) != 2 or shape[1] != width:
            raise where.fault(f"must have the shape [n, {width}], with a row for each transaction")
        self._count.rows = rows = checked_rows(shape[0])
        return rows, [await self._numbers(where, tensor, rows, width)]

    async def _tensor_of_each_feature(
        self, places: dict[str, int]
    ) -> tuple[int, list[NDArray[Any]]]:
        names = self._reader.names
        known = set(names)
        for name, index in places.items():
            if name not in known:
                raise body_fault(
                    f"has several tensors, of which inputs[{index}] is no feature of the schema",
                    "unknown_field",
                )
        missing = [name for name in names if name not in places]
        if missing:
            raise InvalidBodyError(
                [FieldFault(field=name, reason="is missing", code="missing") for name in missing]
            )
        columns: list[NDArray[Any]] = []
        rows: int | None = None
        for name in names:
            tensor, where = self._envelope.inputs[places[name]], Where(name, places[name])
            self._count.rows = rows = column_rows(where, tensor, rows)
            columns.append(await self._numbers(where, tensor, rows, 1))
        assert rows
        return rows, columns

    async def _numbers(self, where: Where, tensor: Tensor, rows: int, width: int) -> NDArray[Any]:
        kind = NUMBERS.get(tensor.datatype)
        if kind is None:
            raise where.fault(f"must have one of the datatypes {', '.join(NUMBERS)}", "wrong_type")
        binary = self._binary[where.place]
        if binary is not None:
            return numbers_of_bytes(where, kind, binary, rows, width)
        long = self._found.lists[self._number(where, tensor.data)]
        return await numbers_of_list(where, kind, self._json, long, rows, width, self._turn)

    async def _ids(self, name: str, index: int | None, rows: int) -> list[str | None]:
        """Return an id for each row: of a tensor, or of a parameter of the request."""
        parameters = self._envelope.parameters or RequestParameters()
        one, many = getattr(parameters, name), getattr(parameters, f"{name}s")
        if (index is not None) + (one is not None) + (many is not None) > 1:
            raise FaultError(
                FieldFault(field=name, reason="must be given once", code="repeated_key")
            )
        where = Where(name, index or 0)
        if one is not None and rows > 1:
            raise where.fault(f"names one transaction: give {name}s, one for each row", "bad_id")
        if index is None and many is None:
            return [one] * rows
        if index is not None:
            tensor = self._envelope.inputs[index]
            if tensor.datatype != BYTES:
                raise where.fault(f"must have the datatype {BYTES}", "wrong_type")
            column_rows(where, tensor, rows)
            binary = self._binary[index]
            if binary is not None:
                return await ids_of_bytes(where, binary, rows, self._turn)
            many = tensor.data
        long = self._found.lists[self._number(where, many)]
        return await ids_of_list(where, self._json, long, rows, self._turn)

    def _number(self, where: Where, cut: list[int] | None) -> int:
        if cut is None:
            raise where.fault("has neither data nor a binary_data_size", "missing")
        self._used += 1
        return cut[0]
