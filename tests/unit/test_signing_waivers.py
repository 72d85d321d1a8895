"""Signed waivers: one request, one version, one bundle, and an end."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from fraudops.canonical import canonical_json
from fraudops.errors import SignatureRefusedError
from fraudops.signing.envelope import StatementKind, Subject, sign
from fraudops.signing.keys import PublicKeys
from fraudops.signing.verdicts import SignedVerdict, check_verdict
from fraudops.signing.waivers import Waiver, check_waiver, read_waiver, sign_waiver
from tests.support.signing import DIGEST, WAIVER, Signers

SIGNERS = Signers.new()
KEYS = SIGNERS.public
SIGNED = sign_waiver(WAIVER, SIGNERS.waiver)
NOW = datetime(2026, 3, 1, 10, 30, tzinfo=UTC)
replace = msgspec.structs.replace
READ = replace(WAIVER, signer=SIGNERS.waiver.public.id)


def test_a_signed_waiver_is_read_as_it_was_written() -> None:
    assert check_waiver(SIGNED, "7", DIGEST, "request-1", NOW, KEYS) == READ


@pytest.mark.parametrize(
    ("version", "digest", "request_id", "now", "reason"),
    [
        ("8", DIGEST, "request-1", NOW, "for version 7 .*not for version 8"),
        ("7", "0" * 64, "request-1", NOW, "not for version 7 .bundle 000000000000"),
        ("7", DIGEST, "request-2", NOW, "for the request request-1, not for request-2"),
        ("7", DIGEST, "request-1", WAIVER.expires_at, "expired at 2026-03-01T11:00:00"),
    ],
)
def test_a_waiver_allows_nothing_else(
    version: str, digest: str, request_id: str, now: datetime, reason: str
) -> None:
    with pytest.raises(SignatureRefusedError, match=reason) as caught:
        check_waiver(SIGNED, version, digest, request_id, now, KEYS)
    assert "--force" in str(caught.value)


def test_the_waiver_of_what_serves_is_readable_after_its_end() -> None:
    assert read_waiver(SIGNED, "7", DIGEST, KEYS) == READ
    with pytest.raises(SignatureRefusedError, match="not for version 8"):
        read_waiver(SIGNED, "8", DIGEST, KEYS)
    with pytest.raises(SignatureRefusedError, match=r"the waiver is refused: .*no signed waiver"):
        read_waiver(None, "7", DIGEST, KEYS)


def test_the_key_of_a_waiver_is_known() -> None:
    assert read_waiver(SIGNED, "7", DIGEST, KEYS).signer == SIGNERS.waiver.public.id


def test_the_key_that_is_verified_counts_not_the_one_that_the_text_names() -> None:
    kind = StatementKind("waiver", "https://fraudops.io/waiver/v1", Waiver, "")
    lies = replace(WAIVER, signer="f" * 64)
    signed = sign(kind, Subject("bundle.json", {"sha256": DIGEST}), lies, SIGNERS.waiver)
    assert read_waiver(signed, "7", DIGEST, KEYS) == READ


def test_the_verdict_key_cannot_sign_a_waiver() -> None:
    with pytest.raises(SignatureRefusedError, match="this release does not trust"):
        read_waiver(sign_waiver(WAIVER, SIGNERS.verdict), "7", DIGEST, KEYS)


def test_a_release_without_a_waiver_key_refuses_every_waiver() -> None:
    with pytest.raises(SignatureRefusedError, match="trusts: none"):
        read_waiver(SIGNED, "7", DIGEST, PublicKeys(KEYS.verdict))


def test_a_waiver_is_no_verdict_even_when_the_verdict_key_signed_it() -> None:
    signature = sign_waiver(WAIVER, SIGNERS.verdict)
    verdict = SignedVerdict(verdict=canonical_json(WAIVER).decode(), signature=signature)
    with pytest.raises(SignatureRefusedError, match="another kind"):
        check_verdict(verdict, DIGEST, KEYS)


def test_a_verdict_is_no_waiver_even_when_the_waiver_key_signed_it() -> None:
    signature = Signers(SIGNERS.waiver, SIGNERS.waiver).signed_verdict().signature
    with pytest.raises(SignatureRefusedError, match="another kind"):
        read_waiver(signature, "7", DIGEST, KEYS)


def test_a_waiver_whose_subject_is_another_bundle_is_refused() -> None:
    kind = StatementKind("waiver", "https://fraudops.io/waiver/v1", Waiver, "")
    signed = sign(kind, Subject("bundle.json", {"sha256": "0" * 64}), WAIVER, SIGNERS.waiver)
    with pytest.raises(SignatureRefusedError, match="not for version 7"):
        read_waiver(signed, "7", DIGEST, KEYS)


def test_a_waiver_whose_end_has_no_time_zone_is_refused() -> None:
    naive = replace(WAIVER, expires_at=datetime(2026, 3, 1, 11))  # noqa: DTZ001
    with pytest.raises(SignatureRefusedError, match="cannot be read"):
        read_waiver(sign_waiver(naive, SIGNERS.waiver), "7", DIGEST, KEYS)


@given(some.integers(-48, 48), some.integers(-12, 14))
def test_the_end_is_compared_across_time_zones(hours: int, offset: int) -> None:
    end = (NOW + timedelta(hours=hours)).astimezone(
        datetime.strptime(f"{offset:+03d}00", "%z").tzinfo
    )
    signed = sign_waiver(replace(WAIVER, expires_at=end), SIGNERS.waiver)
    if hours > 0:
        assert check_waiver(signed, "7", DIGEST, "request-1", NOW, KEYS).expires_at == end
    else:
        with pytest.raises(SignatureRefusedError, match="expired"):
            check_waiver(signed, "7", DIGEST, "request-1", NOW, KEYS)


def test_no_altered_byte_changes_what_is_read() -> None:
    for position, character in enumerate(SIGNED):
        text = SIGNED[:position] + chr(ord(character) ^ 1) + SIGNED[position + 1 :]
        try:
            assert read_waiver(text, "7", DIGEST, KEYS) == READ
        except SignatureRefusedError:
            continue


def test_the_longest_reason_is_signed_and_read() -> None:
    waiver = replace(WAIVER, reason="\U0001f525" * 1000, who="u" * 1000)
    signed = sign_waiver(waiver, SIGNERS.waiver)
    assert read_waiver(signed, "7", DIGEST, SIGNERS.public).reason == waiver.reason
