"""Signed statements in the form of OpenSSF Model Signing, which `model_signing` reads and writes.

    sigstore bundle v0.3   JSON: the id of the signer's key, and the envelope
    DSSE envelope          the payload, and an ECDSA P-256 signature of its encoding
    in-toto statement v1   the payload, JSON: names and sha256 of subjects, and a predicate

Sources: https://github.com/secure-systems-lab/dsse/blob/v1.0.2/protocol.md,
https://github.com/in-toto/attestation/blob/v1.1.0/spec/v1/statement.md and
https://github.com/sigstore/protobuf-specs/blob/v0.5.0/protos/sigstore_bundle.proto.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from fraudops.canonical import canonical_json, decode_json
from fraudops.errors import SignatureRefusedError
from fraudops.signing.keys import KEY_ID, PrivateKey, PublicKey, PublicKeys, Purpose, named, short

_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
# A bundle has about 2 kB, with a long reason up to 10 kB. The serving record keeps more than 20 of
# them, and a ConfigMap may have 1 MiB. White space that a client of MLflow adds must not fill it,
# because then not even a rollback could be written.
MAX_BYTES = 12_000

Predicate = TypeVar("Predicate", bound=msgspec.Struct)


@dataclass(frozen=True)
class StatementKind(Generic[Predicate]):
    """A kind of signed statement: the purpose of its keys, and the form of its predicate.

    `again` says how to get such a statement, for messages.
    """

    purpose: Purpose
    predicate_type: str
    predicate: type[Predicate]
    again: str

    def refused(self, why: str) -> SignatureRefusedError:
        return SignatureRefusedError(f"the {self.purpose} is refused: {why}. {self.again}")


class Subject(msgspec.Struct, frozen=True):
    """What a statement is about: a name, and digests by algorithm."""

    name: str
    digest: dict[str, str]

    @property
    def sha256(self) -> str:
        return self.digest.get("sha256", "")


@dataclass(frozen=True)
class SignedStatement(Generic[Predicate]):
    """A statement whose signature was verified, and the key that signed it."""

    subject: Subject
    predicate: Predicate
    signer: PublicKey


class _Statement(msgspec.Struct, frozen=True, rename="camel"):
    statement_type: str = msgspec.field(name="_type")
    subject: tuple[Subject, ...]
    predicate_type: str
    predicate: msgspec.Raw


class _DsseSignature(msgspec.Struct, frozen=True):
    sig: bytes
    keyid: str = ""


class _Envelope(msgspec.Struct, frozen=True, rename="camel"):
    payload: bytes
    payload_type: str
    signatures: tuple[_DsseSignature, ...]


class _KeyHint(msgspec.Struct, frozen=True):
    hint: str


class _Material(msgspec.Struct, frozen=True, rename="camel"):
    public_key: _KeyHint
    # Entries of a public log. A signature by a key has none, and `model_signing` writes `[]` too.
    tlog_entries: tuple[msgspec.Raw, ...] = ()


class _Bundle(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str
    verification_material: _Material
    dsse_envelope: _Envelope


def sign(
    kind: StatementKind[Predicate], subject: Subject, predicate: Predicate, key: PrivateKey
) -> str:
    """Sign a statement and return the text of its sigstore bundle."""
    content = msgspec.Raw(canonical_json(predicate))
    statement = _Statement(_STATEMENT, (subject,), kind.predicate_type, content)
    payload = canonical_json(statement)
    signature = _DsseSignature(key.sign(_signed_bytes(payload)))
    return canonical_json(
        _Bundle(
            _BUNDLE,
            _Material(_KeyHint(key.public.id)),
            _Envelope(payload, _PAYLOAD, (signature,)),
        )
    ).decode()


def verify(
    kind: StatementKind[Predicate], bundle: str, keys: PublicKeys
) -> SignedStatement[Predicate]:
    """Return the statement in the text of a sigstore bundle after verifying its signature.

    Raises SignatureRefusedError when no key of the kind's purpose signed it, when it was altered,
    or when it is a statement of another kind.
    """
    content = _decoded(kind, bundle)
    # Only the choice of the key depends on the hint, which is not signed.
    hint = content.verification_material.public_key.hint
    signer = next((key for key in keys.of(kind.purpose) if key.id == hint), None)
    if signer is None:
        # The hint is foreign text until it has the form of an id.
        by = short(hint) if KEY_ID.fullmatch(hint) else "without an id"
        raise kind.refused(
            f"it is signed by the key {by}, which this release does not trust "
            f"(it trusts: {named(keys.of(kind.purpose))})"
        )
    payload = content.dsse_envelope.payload
    (signature,) = content.dsse_envelope.signatures
    # Nothing may be read from the payload before this.
    if not signer.has_signed(_signed_bytes(payload), signature.sig):
        raise kind.refused("its signature does not fit, so it has been altered")
    subject, predicate = _opened(kind, payload)
    return SignedStatement(subject, predicate, signer)


def _decoded(kind: StatementKind[Predicate], bundle: str) -> _Bundle:
    """Return the bundle, whose content is not trusted yet."""
    try:
        data = bundle.encode()
        if len(data) > MAX_BYTES:
            raise kind.refused(f"its signature has more than {MAX_BYTES} bytes")
        content = decode_json(data, _Bundle)
    except (msgspec.MsgspecError, UnicodeEncodeError):
        raise kind.refused("its signature is not a sigstore bundle of a key") from None
    if content.media_type != _BUNDLE or content.dsse_envelope.payload_type != _PAYLOAD:
        raise kind.refused("its signature is a sigstore bundle of another form")
    # With two, a reader may verify one and another reader the other.
    if len(content.dsse_envelope.signatures) != 1:
        raise kind.refused("its envelope does not hold exactly one signature")
    return content


def _opened(kind: StatementKind[Predicate], payload: bytes) -> tuple[Subject, Predicate]:
    """Return subject and predicate of a verified payload."""
    try:
        statement = decode_json(payload, _Statement)
        found = (statement.statement_type, statement.predicate_type)
        # A key may sign several kinds. A statement of one must not pass as one of another.
        if found != (_STATEMENT, kind.predicate_type) or len(statement.subject) != 1:
            raise kind.refused("what was signed is a statement of another kind")
        (subject,) = statement.subject
        return subject, decode_json(bytes(statement.predicate), kind.predicate)
    except msgspec.MsgspecError:
        raise kind.refused("what was signed cannot be read by this release") from None


def _signed_bytes(payload: bytes) -> bytes:
    """Return what is signed: DSSE's pre-authentication encoding of the payload and its type."""
    return b"DSSEv1 %d %b %d %b" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)
