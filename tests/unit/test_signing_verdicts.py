"""Signed verdicts: everything that is not exactly what `validate` signed is refused."""

import base64
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from fraudops.canonical import canonical_json, sha256_bytes
from fraudops.errors import BundleError, SignatureRefusedError
from fraudops.extensible import decode_document, encode_document
from fraudops.model.manifest import MANIFEST as MANIFEST_FILE
from fraudops.promotion.serving_record import (
    STACK_LIMIT,
    Reservation,
    ServingEntry,
    ServingRecord,
    encode,
)
from fraudops.signing.envelope import MAX_BYTES
from fraudops.signing.keys import PrivateKey, PublicKeys
from fraudops.signing.verdicts import (
    BUNDLE_FILE,
    FORMAT,
    SIGNATURE_FILE,
    VERDICT_FILE,
    SignedVerdict,
    Verdict,
    check_verdict,
    sign_verdict,
)
from tests.support.signing import DIGEST, MANIFEST, VERDICT, Signers

SIGNERS = Signers.new()
KEYS = SIGNERS.public
SIGNED = SIGNERS.signed_verdict()
replace = msgspec.structs.replace


def test_a_signed_verdict_is_read_as_it_was_written() -> None:
    expected = replace(VERDICT, signer=SIGNERS.verdict.public.id)
    assert check_verdict(SIGNED, DIGEST, KEYS) == expected
    copied = decode_document(encode_document(SIGNED), SignedVerdict)
    assert check_verdict(copied, DIGEST, KEYS) == expected


def test_a_failed_verdict_is_signed_too() -> None:
    failed = SIGNERS.signed_verdict(replace(VERDICT, passed=False))
    assert not check_verdict(failed, DIGEST, KEYS).passed


def test_the_files_have_the_names_that_the_registry_stores() -> None:
    assert BUNDLE_FILE == MANIFEST_FILE
    assert (VERDICT_FILE, SIGNATURE_FILE) == ("verdict.json", "verdict.sigstore.json")


def test_a_verdict_is_not_signed_with_another_manifest() -> None:
    with pytest.raises(BundleError, match=DIGEST[:12]):
        sign_verdict(MANIFEST + b" ", VERDICT, SIGNERS.verdict)


def test_every_trusted_key_may_sign() -> None:
    other = Signers.new()
    both = PublicKeys((SIGNERS.verdict.public, other.verdict.public))
    signed = other.signed_verdict()
    assert check_verdict(signed, DIGEST, both).signer == other.verdict.public.id
    with refusal("signed by the key " + other.verdict.public.id[:12]) as caught:
        check_verdict(signed, DIGEST, KEYS)
    assert f"trusts: {SIGNERS.verdict.public.id[:12]}" in str(caught.value)


def test_an_unsigned_verdict_is_refused() -> None:
    with refusal("no signed verdict"):
        check_verdict(None, DIGEST, KEYS)


def test_a_verdict_of_another_bundle_is_refused() -> None:
    with refusal(f"refused: it is about the bundle {DIGEST[:12]}, not about {'0' * 12}"):
        check_verdict(SIGNED, "0" * 64, KEYS)


def test_an_edited_verdict_is_refused_in_every_byte() -> None:
    for position, character in enumerate(SIGNED.verdict):
        flipped = chr(ord(character) ^ 1)
        text = SIGNED.verdict[:position] + flipped + SIGNED.verdict[position + 1 :]
        with refusal("has been altered"):
            check_verdict(replace(SIGNED, verdict=text), DIGEST, KEYS)


def test_the_verdict_of_one_bundle_does_not_fit_the_signature_of_another() -> None:
    refused = SIGNERS.signed_verdict(replace(VERDICT, passed=False))
    with refusal("has been altered"):
        check_verdict(replace(refused, verdict=SIGNED.verdict), DIGEST, KEYS)


def test_no_altered_byte_of_a_signature_changes_what_is_read() -> None:
    """Names of fields that are not read may change. Everything else is refused."""
    signature, accepted = SIGNED.signature, 0
    for position, character in enumerate(signature):
        text = signature[:position] + chr(ord(character) ^ 1) + signature[position + 1 :]
        try:
            verdict = check_verdict(replace(SIGNED, signature=text), DIGEST, KEYS)
        except SignatureRefusedError:
            continue
        accepted += 1
        assert verdict == check_verdict(SIGNED, DIGEST, KEYS)
    assert accepted <= len('"tlogEntries""keyid":""')


@given(some.text(), some.text())
def test_any_other_text_is_refused(verdict: str, signature: str) -> None:
    with pytest.raises(SignatureRefusedError):
        check_verdict(SignedVerdict(verdict=verdict, signature=signature), DIGEST, KEYS)
    with pytest.raises(SignatureRefusedError):
        check_verdict(replace(SIGNED, verdict=verdict), DIGEST, KEYS)


@pytest.mark.parametrize("text", ["\ud800", "[" * 90_000, "{" * 100_001, "null", "{}"])
def test_a_text_that_cannot_be_decoded_is_refused(text: str) -> None:
    with pytest.raises(SignatureRefusedError):
        check_verdict(replace(SIGNED, signature=text), DIGEST, KEYS)
    with pytest.raises(SignatureRefusedError):
        check_verdict(replace(SIGNED, verdict=text), DIGEST, KEYS)


def test_a_bundle_has_at_most_12000_bytes() -> None:
    longest = SIGNED.signature.ljust(12_000)
    assert check_verdict(replace(SIGNED, signature=longest), DIGEST, KEYS).passed
    for longer in (longest + " ", SIGNED.signature.replace("{", '{"x":"' + "é" * 6000 + '",', 1)):
        with refusal("more than 12000 bytes"):
            check_verdict(replace(SIGNED, signature=longer), DIGEST, KEYS)


def test_the_longest_bundles_of_a_registry_do_not_fill_the_serving_record() -> None:
    """Any client of MLflow can add white space to a signature, and a ConfigMap has 1 MiB."""
    padded = replace(SIGNED, signature=SIGNED.signature.ljust(MAX_BYTES, "\n"))
    assert check_verdict(padded, DIGEST, KEYS).passed
    model: dict[str, Any] = {"version": "7", "digest": DIGEST, "schema_fingerprint": "f" * 64}
    act: dict[str, Any] = {"epoch": 1, "by": "request", "at": VERDICT.at, "signed_verdict": padded}
    entry = ServingEntry(**model, **act)
    record = ServingRecord(
        current=entry,
        previous=entry,
        stack=(entry,) * STACK_LIMIT,
        reserved=Reservation(**model, **act, strategy="broadcast"),
    )
    assert len(encode(record)) < 2**20 * 3 // 4


def test_the_bundle_has_the_form_of_model_signing() -> None:
    bundle = json.loads(SIGNED.signature)
    statement = json.loads(payload_of(SIGNED.signature))
    envelope = bundle["dsseEnvelope"]
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert bundle["verificationMaterial"] == {
        "publicKey": {"hint": SIGNERS.verdict.public.id},
        "tlogEntries": [],
    }
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert [signature["keyid"] for signature in envelope["signatures"]] == [""]
    verdict = sha256_bytes(SIGNED.verdict.encode())
    root = sha256_bytes(bytes.fromhex(DIGEST) + bytes.fromhex(verdict))
    assert statement == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "fraud", "digest": {"sha256": root}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
            },
            "resources": [
                {"name": "bundle.json", "algorithm": "sha256", "digest": DIGEST},
                {"name": "verdict.json", "algorithm": "sha256", "digest": verdict},
            ],
        },
    }


def test_a_refusal_says_what_to_do_and_quotes_no_foreign_text() -> None:
    bundle = json.loads(SIGNED.signature)
    bundle["verificationMaterial"]["publicKey"]["hint"] = "\x1b[31mtrust me"
    with refusal("by the key without an id") as caught:
        check_verdict(replace(SIGNED, signature=json.dumps(bundle)), DIGEST, KEYS)
    assert "trust me" not in str(caught.value)
    assert "fraudops validate" in str(caught.value)
    assert caught.value.exit_code == 65


def without_signatures(bundle: dict[str, Any]) -> None:
    bundle["dsseEnvelope"]["signatures"] = []


def with_two_signatures(bundle: dict[str, Any]) -> None:
    bundle["dsseEnvelope"]["signatures"] *= 2


def of_another_payload_type(bundle: dict[str, Any]) -> None:
    bundle["dsseEnvelope"]["payloadType"] = "text/plain"


def of_another_bundle_form(bundle: dict[str, Any]) -> None:
    bundle["mediaType"] = "application/vnd.dev.sigstore.bundle.v0.4+json"


def of_a_certificate(bundle: dict[str, Any]) -> None:
    bundle["verificationMaterial"] = {"certificate": {"rawBytes": ""}}


@pytest.mark.parametrize(
    "change",
    [
        without_signatures,
        with_two_signatures,
        of_another_payload_type,
        of_another_bundle_form,
        of_a_certificate,
    ],
)
def test_another_form_of_bundle_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    bundle = json.loads(SIGNED.signature)
    change(bundle)
    with pytest.raises(SignatureRefusedError, match=r"envelope|sigstore bundle"):
        check_verdict(replace(SIGNED, signature=json.dumps(bundle)), DIGEST, KEYS)


def other_files(statement: dict[str, Any]) -> None:
    statement["predicate"]["resources"][0]["name"] = "other.json"


def more_files(statement: dict[str, Any]) -> None:
    statement["predicate"]["resources"].append(
        {"name": "x", "algorithm": "sha256", "digest": DIGEST}
    )


def another_algorithm(statement: dict[str, Any]) -> None:
    statement["predicate"]["resources"][0]["algorithm"] = "blake2b"


def another_root(statement: dict[str, Any]) -> None:
    statement["subject"][0]["digest"]["sha256"] = "0" * 64


def a_digest_without_digits(statement: dict[str, Any]) -> None:
    statement["predicate"]["resources"][0]["digest"] = "not hexadecimal"
    statement["subject"][0]["digest"] = {}


def two_subjects(statement: dict[str, Any]) -> None:
    statement["subject"] *= 2


def a_waiver(statement: dict[str, Any]) -> None:
    statement["predicateType"] = "https://fraudops.io/waiver/v1"


def another_statement(statement: dict[str, Any]) -> None:
    statement["_type"] = "https://in-toto.io/Statement/v0.1"


def another_predicate(statement: dict[str, Any]) -> None:
    statement["predicate"] = {"resources": 1}


@pytest.mark.parametrize(
    "change",
    [
        other_files,
        more_files,
        another_algorithm,
        another_root,
        a_digest_without_digits,
        two_subjects,
        a_waiver,
        another_statement,
        another_predicate,
    ],
)
def test_another_statement_of_the_same_key_is_refused(
    change: Callable[[dict[str, Any]], None],
) -> None:
    statement = json.loads(payload_of(SIGNED.signature))
    change(statement)
    with refusal("what was signed|contradict"):
        check_verdict(resigned(json.dumps(statement).encode(), SIGNERS.verdict), DIGEST, KEYS)


def test_the_waiver_key_cannot_sign_a_verdict() -> None:
    payload = payload_of(SIGNED.signature)
    assert check_verdict(resigned(payload, SIGNERS.verdict), DIGEST, KEYS).passed
    with refusal("this release does not trust"):
        check_verdict(resigned(payload, SIGNERS.waiver), DIGEST, KEYS)


def test_fields_of_a_later_release_stay_in_the_signed_text() -> None:
    later = msgspec.json.decode(SIGNED.verdict) | {"fairness": {"gap": 0.1}}
    signed = signed_text(canonical_json(later))
    assert check_verdict(signed, DIGEST, KEYS).passed
    assert "fairness" in decode_document(encode_document(signed), SignedVerdict).verdict


def test_a_later_format_asks_for_an_upgrade() -> None:
    with refusal(f"format {FORMAT + 1}.*upgrade"):
        check_verdict(signed_text(b'{"format": %d}' % (FORMAT + 1)), DIGEST, KEYS)


@pytest.mark.parametrize("content", [b"{}", b"[]", b'{"format": 1}', b"\xff"])
def test_a_signed_text_that_is_no_verdict_is_refused(content: bytes) -> None:
    signed = signed_text(content)
    with pytest.raises(SignatureRefusedError, match=r"cannot be read|UTF-8"):
        check_verdict(signed, DIGEST, KEYS)


def test_a_signed_text_about_another_bundle_is_refused() -> None:
    other = canonical_json(replace(VERDICT, digest="0" * 64))
    with refusal(r"verdict\.json is about the bundle 000000000000"):
        check_verdict(signed_text(other), DIGEST, KEYS)


def refusal(match: str) -> "pytest.RaisesExc[SignatureRefusedError]":
    return pytest.raises(SignatureRefusedError, match=match)


def payload_of(signature: str) -> bytes:
    return base64.b64decode(json.loads(signature)["dsseEnvelope"]["payload"])


def resigned(payload: bytes, key: PrivateKey) -> SignedVerdict:
    """Return the verdict with another payload, signed by the rules of DSSE."""
    head = f"DSSEv1 28 application/vnd.in-toto+json {len(payload)} ".encode()
    bundle = json.loads(SIGNED.signature)
    bundle["verificationMaterial"]["publicKey"]["hint"] = key.public.id
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(
        key.sign(head + payload)
    ).decode()
    return replace(SIGNED, signature=json.dumps(bundle))


def signed_text(content: bytes) -> SignedVerdict:
    """Return a signed text in the place of a verdict, as another program could sign it."""
    statement = json.loads(payload_of(SIGNED.signature))
    digest = sha256_bytes(content)
    statement["predicate"]["resources"][1]["digest"] = digest
    root = sha256_bytes(bytes.fromhex(DIGEST) + bytes.fromhex(digest))
    statement["subject"][0]["digest"]["sha256"] = root
    signed = resigned(json.dumps(statement).encode(), SIGNERS.verdict)
    return replace(signed, verdict=content.decode("utf-8", "surrogateescape"))


def test_the_stored_verdict_has_the_fields_of_the_struct_and_a_format() -> None:
    stored = msgspec.json.decode(SIGNED.verdict)
    assert set(stored) == {field.name for field in msgspec.structs.fields(Verdict)}
    assert stored["format"] == 1
