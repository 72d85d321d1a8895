"""The gate of a promotion and of a rollback.

A version may serve with a signed passing verdict, or a signed waiver, for exactly its digest. It is
compared again when production has moved since the verdict.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from fraudops.errors import RefusedError, SignatureRefusedError
from fraudops.promotion.attempt import Strategy
from fraudops.promotion.changes import Promote, Rollback, decide_promotion, decide_rollback
from fraudops.promotion.serving_record import ModelRef, ServingEntry, ServingRecord
from fraudops.registry import ModelVersion
from fraudops.signing.credentials import Credentials, PromotionTerms, accept
from fraudops.signing.keys import PublicKeys
from fraudops.signing.verdicts import Verdict
from fraudops.signing.waivers import Waiver


class FailedGate(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def passed(self) -> bool: ...

    @property
    def detail(self) -> str: ...


Environment = Literal["development", "production"]


@dataclass(frozen=True)
class SealedFacts:
    """What a bundle's manifest says of it. The digest seals the manifest."""

    schema_fingerprint: str
    sample: bool


@dataclass(frozen=True)
class Nominee:
    """A version that a user wants to serve, and what proves that it may.

    `facts` reads the bundle's own manifest. It is called only for a version without a verdict.
    """

    version: ModelVersion
    credentials: Credentials
    facts: Callable[[], SealedFacts]


@dataclass(frozen=True)
class Trust:
    """The keys that this installation trusts, and what it requires of a promotion."""

    keys: PublicKeys
    terms: PromotionTerms
    environment: Environment = "development"


Recompare = Callable[[ModelVersion, Verdict], Sequence[FailedGate]]


def admit(
    nominee: Nominee,
    record: ServingRecord,
    strategy: Strategy,
    recompare: Recompare,
    trust: Trust,
) -> Promote:
    """Return the promotion of a version that may serve. Raises RefusedError with what to do.

    `recompare` compares the version with the one that serves. A waiver replaces the verdict for
    this promotion alone. In production it does not admit a model of the packaged sample.
    """
    version = nominee.version
    if version.digest is None or version.schema_fingerprint is None:
        raise RefusedError(
            f"version {version.version} carries no bundle of fraudops; "
            "train one with `fraudops train`"
        )
    accepted = accept(nominee.credentials, version.version, version.digest, trust.keys, trust.terms)
    verdict = accepted.verdict
    # Never from the registry's tags, which have no signature.
    facts = SealedFacts(verdict.schema_fingerprint, verdict.sample) if verdict else nominee.facts()
    _refuse_sample(version.version, facts.sample, trust.environment)
    model = ModelRef(
        version=version.version,
        digest=version.digest,
        schema_fingerprint=facts.schema_fingerprint,
        verdict=_shown_verdict(verdict) if verdict else None,
        waiver=_shown_waiver(accepted.waiver) if accepted.waiver else None,
        sample=facts.sample,
        signed_verdict=nominee.credentials.signed_verdict,
        signed_waiver=nominee.credentials.signed_waiver,
    )
    change = decide_promotion(record, model, strategy)
    if accepted.waiver is None:
        # `accept` needs one of the two.
        assert verdict is not None
        current = record.current
        if current and _moved(verdict, current, version.digest):
            _refuse_worse(version, current.version, recompare(version, verdict))
    return change


def go_back(
    record: ServingRecord, keys: PublicKeys, environment: Environment = "development"
) -> Rollback:
    """Return the rollback to the way back, with its verdict or waiver.

    Raises RefusedError when there is no way back, when its statements are refused, and in
    production for a model of the packaged sample.
    """
    change = decide_rollback(record)
    model = change.model
    try:
        accept(model.credentials, model.version, model.digest, keys)
    except SignatureRefusedError as error:
        raise SignatureRefusedError(
            f"version {model.version} is the way back, and its statements are not valid any more: "
            f"{error}. To leave the version that serves, promote another one"
        ) from error
    _refuse_sample(model.version, model.sample, environment)
    return change


def _refuse_sample(version: str, sample: bool, environment: Environment) -> None:
    if sample and environment == "production":
        raise RefusedError(
            f"version {version} was trained on the packaged sample, and production refuses such a "
            "model: train on your own data (`fraudops train --data FILE`)"
        )


def _moved(verdict: Verdict, current: ServingEntry, digest: str) -> bool:
    """Whether production is no longer what the verdict compared with."""
    compared = verdict.compared_to or {}
    return current.digest not in (compared.get("digest"), digest)


def _refuse_worse(version: ModelVersion, serving: str, gates: Sequence[FailedGate]) -> None:
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        details = "; ".join(f"{gate.name}: {gate.detail}" for gate in failed)
        raise RefusedError(
            f"production has moved to version {serving} since the verdict, and against it "
            f"version {version.version} is worse: {details}"
        )


def _shown_verdict(verdict: Verdict) -> dict[str, Any]:
    """Return what the record shows of a verdict without its signed text."""
    names = ("digest", "test_digest", "passed", "compared_to", "at", "signer")
    return {name: getattr(verdict, name) for name in names}


def _shown_waiver(waiver: Waiver) -> dict[str, Any]:
    return {name: getattr(waiver, name) for name in ("digest", "reason", "who", "at", "signer")}
