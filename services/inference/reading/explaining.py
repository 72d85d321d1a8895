"""The faults of a refused body, found by the decoders that refused it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice

import msgspec

from services.inference.reading.faults import (
    REFUSALS,
    REPORTED_FAULTS,
    FaultError,
    FieldFault,
    given_twice,
    not_json,
    shown_name,
    too_large,
    unknown_field,
)
from services.inference.reading.foreign_forms import foreign_form
from services.inference.reading.members import MOST_MEMBERS, TOO_DEEP, members
from services.inference.reading.wording import NOT_FINITE, NOT_WHOLE, Worded, in_words

ROW_BYTES = 64 << 10
_WHITE = b" \t\r\n"
_NOT_FINITE = re.compile(rb"-?(?:NaN|Infinity)")


def _value(word: bytes) -> "re.Pattern[bytes]":
    """Match a word that is a value, also behind a minus sign. The search begins with the word."""
    before = rb"(?:(?<![^:,\[\s]%b)|(?<=-%b)(?<![^:,\[\s]-%b))" % (word, word, word)
    return re.compile(word + before + rb"(?![^\s,}\]])")


_NAN, _INFINITY = _value(b"NaN"), _value(b"Infinity")
_PLACE = re.compile(r"\(byte (\d+)\)")
_syntax = msgspec.json.Decoder(msgspec.Raw)


class Explainer:
    """Names the faults of refused objects of one kind.

    Each value is decoded by the type of its field, so that this code and the decoder of the whole
    object refuse the same values. The work is bounded: by ROW_BYTES, MOST_MEMBERS and MOST_LEVELS.
    """

    def __init__(self, kind: type[msgspec.Struct], send: str | None = None) -> None:
        """With `send`, the forms of other servers are named, and what to send in their place."""
        self._send = send
        self._closed = kind.__struct_config__.forbid_unknown_fields
        self._fields = {
            field.encode_name: (field.required, msgspec.json.Decoder(field.type))
            for field in msgspec.structs.fields(kind)
        }
        self.most_members = max(MOST_MEMBERS, 2 * len(self._fields))

    def faults(
        self,
        body: bytes,
        refusal: Exception | None = None,
        offset: int = 0,
        most: int = REPORTED_FAULTS,
    ) -> list[FieldFault]:
        """Return the first `most` faults of a body that was refused by `refusal`: at least one.

        `offset` is the place of the body in what the client sent. Never raises.
        """
        try:
            return self.found(body, offset, most) or [_fault_of(refusal)]
        except REFUSALS:
            return [_fault_of(refusal)]

    def found(self, body: bytes, offset: int = 0, most: int = REPORTED_FAULTS) -> list[FieldFault]:
        """Return the faults that can be seen without knowing who refused the body."""
        if fault := _fault_of_whole(body, offset):
            return [fault]
        try:
            content = members(body, self.most_members)
        except FaultError as error:
            return [error.fault]
        values: dict[str, list[bytes]] = {}
        for name, value in content:
            values.setdefault(name, []).append(value)
        unknown = sorted(values.keys() - self._fields.keys())
        if self._send and (fault := foreign_form(unknown, self._send)):
            return [fault]
        every = chain(self._known(values), self._unknown(unknown, values))
        return list(islice(every, most))

    def _known(self, values: Mapping[str, Sequence[bytes]]) -> Iterator[FieldFault]:
        for name, (required, decoder) in self._fields.items():
            sent = values.get(name, ())
            if len(sent) > 1:
                yield given_twice(name)
            elif not sent:
                if required:
                    yield FieldFault(field=name, reason="is missing", code="missing")
            elif worded := _refusal(sent[0], decoder):
                yield FieldFault(field=name, reason=worded[0], code=worded[1])

    def _unknown(
        self, names: Sequence[str], values: Mapping[str, Sequence[bytes]]
    ) -> Iterator[FieldFault]:
        for name in names:
            if self._closed:
                yield unknown_field(name)
            elif len(values[name]) > 1:
                yield given_twice(shown_name(name))
            elif not _is_json(values[name][0]):
                yield FieldFault(
                    field=shown_name(name), reason="holds NaN or Infinity", code="not_finite"
                )


def _fault_of(refusal: Exception | None) -> FieldFault:
    """Return the fault that the error carries, or one without a precise reason."""
    for error in (refusal, refusal.__cause__ if refusal else None):
        if isinstance(error, FaultError):
            return error.fault
    return FieldFault(reason="is not accepted", code="other")


def _fault_of_whole(body: bytes, offset: int) -> FieldFault | None:
    """Return the fault if the body is no JSON object."""
    if len(body) > ROW_BYTES:
        return too_large(ROW_BYTES)
    if not body.strip(_WHITE):
        return FieldFault(reason="is empty", code="empty")
    try:
        body.decode()
    except UnicodeDecodeError:
        return FieldFault(reason="is not UTF-8", code="not_utf8")
    try:
        _syntax.decode(_finite(body))
    except RecursionError:
        return TOO_DEEP
    except msgspec.MsgspecError as error:
        place = _PLACE.search(str(error))
        return not_json(offset + (int(place[1]) if place else len(body)))
    if not body.lstrip(_WHITE).startswith(b"{"):
        return FieldFault(reason="must be an object", code="wrong_type")
    return None


def _refusal(value: bytes, decoder: "msgspec.json.Decoder[object]") -> Worded | None:
    if _NOT_FINITE.fullmatch(value):
        return NOT_FINITE
    try:
        decoder.decode(_finite(value) if value[:1] in b"[{" else value)
    except msgspec.MsgspecError as error:
        message = str(error)
        whole = "Expected `int`, got `float`" in message and float(value).is_integer()
        return NOT_WHOLE if whole else in_words(message)
    except REFUSALS as error:
        return in_words(str(error))
    return None


def _is_json(value: bytes) -> bool:
    try:
        _syntax.decode(value)
    except msgspec.MsgspecError:
        return False
    return True


def _finite(body: bytes) -> bytes:
    """Replace NaN and Infinity, which are no JSON, by numbers of the same length."""
    return _INFINITY.sub(b"0.000000", _NAN.sub(b"0.0", body))
