"""What may serve: the one decision of promotions, rollbacks and pods about signed statements."""

from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import pytest

from fraudops.errors import SignatureRefusedError
from fraudops.signing.credentials import (
    AcceptedStatements,
    Credentials,
    PromotionTerms,
    accept,
    needs_key,
)
from fraudops.signing.keys import PrivateKey, PublicKeys
from fraudops.signing.verdicts import SignedVerdict
from fraudops.signing.waivers import sign_waiver
from tests.support.signing import DIGEST, VERDICT, WAIVER, Signers

SIGNERS, FOREIGN = Signers.new(), Signers.new()
KEYS = SIGNERS.public
TERMS = PromotionTerms("fraud", "request-1", datetime(2026, 3, 1, 10, 30, tzinfo=UTC), True)
FAILED = msgspec.structs.replace(
    VERDICT, passed=False, gates=({"name": "roc_auc", "passed": False}, {"name": "x", "passed": 1})
)
PASSED_VERDICT, FAILED_VERDICT = SIGNERS.signed_verdict(), SIGNERS.signed_verdict(FAILED)
SIGNED_WAIVER = sign_waiver(WAIVER, SIGNERS.waiver)
READ_WAIVER = msgspec.structs.replace(WAIVER, signer=SIGNERS.waiver.public.id)
PASSED = Credentials(signed_verdict=PASSED_VERDICT)
WAIVED = Credentials(signed_verdict=FAILED_VERDICT, signed_waiver=SIGNED_WAIVER)
UNSIGNED = Credentials(unsigned=True)


def serve(credentials: Credentials, version: str = "7", digest: str = DIGEST) -> AcceptedStatements:
    return accept(credentials, version, digest, KEYS)


def promote(credentials: Credentials, terms: PromotionTerms = TERMS) -> AcceptedStatements:
    return accept(credentials, "7", DIGEST, KEYS, terms)


def test_a_passing_verdict_lets_a_version_be_promoted_and_serve() -> None:
    expected = msgspec.structs.replace(VERDICT, signer=SIGNERS.verdict.public.id)
    assert promote(PASSED) == serve(PASSED) == AcceptedStatements(expected)
    assert serve(PASSED).signer == SIGNERS.verdict.public.id


def test_a_failed_verdict_needs_a_waiver() -> None:
    for decide in (promote, serve):
        with pytest.raises(SignatureRefusedError, match=r"7 did not pass validation \(roc_auc\)"):
            decide(Credentials(signed_verdict=FAILED_VERDICT))
        assert decide(WAIVED).waiver == READ_WAIVER
        found = decide(WAIVED).verdict
        assert found is not None
        assert not found.passed


def test_a_waiver_without_a_verdict_lets_its_bundle_serve() -> None:
    alone = Credentials(signed_waiver=SIGNED_WAIVER)
    assert promote(alone) == serve(alone) == AcceptedStatements(None, READ_WAIVER)
    assert serve(alone).signer is None


def test_a_used_and_expired_waiver_lets_its_bundle_serve_but_not_be_promoted_again() -> None:
    late = replace(TERMS, now=WAIVER.expires_at)
    assert serve(WAIVED).waiver == READ_WAIVER
    with pytest.raises(SignatureRefusedError, match="it expired at"):
        promote(WAIVED, late)
    with pytest.raises(SignatureRefusedError, match="for the request request-1, not for another"):
        promote(WAIVED, replace(TERMS, request="another"))


def test_an_installation_that_forbids_waivers_promotes_by_none() -> None:
    forbidden = replace(TERMS, waivers_allowed=False)
    for credentials in (WAIVED, msgspec.structs.replace(PASSED, signed_waiver=SIGNED_WAIVER)):
        with pytest.raises(SignatureRefusedError, match="FRAUDOPS_SIGNING__WAIVERS"):
            promote(credentials, forbidden)
    assert promote(PASSED, forbidden).waiver is None
    # What was promoted before waivers were forbidden serves on.
    assert serve(WAIVED).waiver == READ_WAIVER


def test_a_waiver_that_a_promotion_gets_is_checked_although_the_verdict_passed() -> None:
    both = msgspec.structs.replace(PASSED, signed_waiver=SIGNED_WAIVER)
    assert promote(both).waiver == READ_WAIVER
    with pytest.raises(SignatureRefusedError, match="for the request"):
        promote(both, replace(TERMS, request="another"))
    # A pod needs no waiver for a passing verdict, for example after its key was retired.
    assert serve(both).waiver is None


def test_what_an_earlier_release_promoted_serves_and_cannot_be_promoted() -> None:
    assert serve(UNSIGNED) == AcceptedStatements(None, None)
    with pytest.raises(SignatureRefusedError, match="has no signed verdict"):
        promote(UNSIGNED)


def test_nothing_serves_without_a_statement_or_the_mark() -> None:
    for decide in (promote, serve):
        with pytest.raises(SignatureRefusedError, match="has no signed verdict"):
            decide(Credentials())


def test_a_wrong_verdict_is_refused_although_it_is_waived_or_marked_unsigned() -> None:
    altered = SignedVerdict(
        verdict=FAILED_VERDICT.verdict.replace('"passed":false', '"passed":true'),
        signature=FAILED_VERDICT.signature,
    )
    for foreign in (altered, FOREIGN.signed_verdict()):
        for other in (Credentials(), WAIVED, UNSIGNED):
            with pytest.raises(SignatureRefusedError, match=r"altered|does not trust"):
                serve(msgspec.structs.replace(other, signed_verdict=foreign))


@pytest.mark.parametrize(
    ("version", "digest", "reason"),
    [("8", DIGEST, "about version 7, not about version 8"), ("7", "0" * 64, "not about 000000")],
)
def test_a_verdict_counts_for_its_version_and_its_bundle(
    version: str, digest: str, reason: str
) -> None:
    for terms in (None, TERMS):
        with pytest.raises(SignatureRefusedError, match=reason):
            accept(PASSED, version, digest, KEYS, terms)


def test_a_waiver_counts_for_its_version_and_its_bundle() -> None:
    alone = Credentials(signed_waiver=SIGNED_WAIVER)
    for version, digest in (("8", DIGEST), ("7", "0" * 64)):
        with pytest.raises(SignatureRefusedError, match="it is for version 7"):
            serve(alone, version, digest)


def test_a_promotion_refuses_the_statements_of_another_model() -> None:
    other = replace(TERMS, model_name="another")
    with pytest.raises(SignatureRefusedError, match="about the model fraud, not about another"):
        promote(PASSED, other)
    with pytest.raises(SignatureRefusedError, match="for the model fraud, not for another"):
        promote(Credentials(signed_waiver=SIGNED_WAIVER), other)


def test_a_foreign_waiver_lets_nothing_serve() -> None:
    foreign = sign_waiver(WAIVER, FOREIGN.waiver)
    for decide in (promote, serve):
        with pytest.raises(SignatureRefusedError, match="does not trust"):
            decide(msgspec.structs.replace(WAIVED, signed_waiver=foreign))


@pytest.mark.parametrize(
    ("credentials", "needed"),
    [
        (PASSED, {SIGNERS.verdict}),
        (WAIVED, {SIGNERS.verdict, SIGNERS.waiver}),
        (Credentials(signed_waiver=SIGNED_WAIVER), {SIGNERS.waiver}),
        # A passing verdict needs no waiver to serve.
        (
            Credentials(signed_verdict=PASSED_VERDICT, signed_waiver=SIGNED_WAIVER),
            {SIGNERS.verdict},
        ),
        (UNSIGNED, set()),
        # What is refused already does not need the key.
        (Credentials(signed_verdict=FAILED_VERDICT), set()),
        (Credentials(), set()),
    ],
)
def test_a_bundle_needs_exactly_the_keys_whose_statements_let_it_serve(
    credentials: Credentials, needed: set[PrivateKey]
) -> None:
    signers = (SIGNERS.verdict, SIGNERS.waiver, FOREIGN.verdict)
    keys = PublicKeys(
        (SIGNERS.verdict.public, FOREIGN.verdict.public),
        (SIGNERS.waiver.public, FOREIGN.waiver.public),
    )
    assert {
        key for key in signers if needs_key(key.public.id, credentials, "7", DIGEST, keys)
    } == needed


def test_keys_without_one_key_keep_the_others_of_both_purposes() -> None:
    verdicts = (SIGNERS.verdict.public, FOREIGN.verdict.public)
    keys = PublicKeys(verdicts, (SIGNERS.waiver.public,))
    assert keys.without(verdicts[0].id) == PublicKeys(verdicts[1:], (SIGNERS.waiver.public,))
    assert keys.without(SIGNERS.waiver.public.id) == PublicKeys(verdicts)
