"""The gate of a promotion and of a rollback.

A version may serve with a passing verdict, or a waiver, for exactly its digest. It is compared
again when production has moved since the verdict.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from fraudops.errors import RefusedError
from fraudops.promotion.attempt import Strategy
from fraudops.promotion.changes import Promote, Rollback, decide_promotion, decide_rollback
from fraudops.promotion.serving_record import ModelRef, ServingEntry, ServingRecord
from fraudops.registry import TAG_SAMPLE, ModelVersion


class FailedGate(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def passed(self) -> bool: ...

    @property
    def detail(self) -> str: ...


Environment = Literal["development", "production"]


@dataclass(frozen=True)
class Waiver:
    """A user's decision to promote one version without a passing verdict.

    It belongs to one promotion. Its entry in the record and its row keep it.
    """

    reason: str
    who: str
    at: str

    def for_digest(self, digest: str) -> dict[str, Any]:
        return {"digest": digest, "reason": self.reason, "who": self.who, "at": self.at}


Recompare = Callable[[ModelVersion], Sequence[FailedGate]]


def admit(
    version: ModelVersion,
    record: ServingRecord,
    strategy: Strategy,
    recompare: Recompare,
    environment: Environment = "development",
    waiver: Waiver | None = None,
) -> Promote:
    """Return the promotion of a version that may serve. Raises RefusedError with what to do.

    `recompare` compares the version with the one that serves. A waiver replaces the verdict for
    this promotion alone. In production it does not admit a model of the packaged sample.
    """
    sample = version.tags.get(TAG_SAMPLE) == "true"
    _refuse_sample(version.version, sample, environment)
    if version.digest is None or version.schema_fingerprint is None:
        raise RefusedError(
            f"version {version.version} carries no bundle of fraudops; "
            "train one with `fraudops train`"
        )
    verdict = _of_this_digest(version.verdict, version.digest)
    model = ModelRef(
        version=version.version,
        digest=version.digest,
        schema_fingerprint=version.schema_fingerprint,
        verdict=_short(verdict),
        waiver=waiver.for_digest(version.digest) if waiver else None,
        sample=sample,
    )
    change = decide_promotion(record, model, strategy)
    if waiver is None:
        _refuse_unless_passed(version, verdict)
        assert verdict is not None
        current = record.current
        if current and _moved(verdict, current, version.digest):
            _refuse_worse(version, current.version, recompare(version))
    return change


def go_back(record: ServingRecord, environment: Environment = "development") -> Rollback:
    """Return the rollback to the way back, with its verdict or waiver.

    Raises RefusedError when there is no way back, and in production for a model of the packaged
    sample.
    """
    change = decide_rollback(record)
    _refuse_sample(change.model.version, change.model.sample, environment)
    return change


def _refuse_sample(version: str, sample: bool, environment: Environment) -> None:
    if sample and environment == "production":
        raise RefusedError(
            f"version {version} was trained on the packaged sample, and production refuses such a "
            "model: train on your own data (`fraudops train --data FILE`)"
        )


def _of_this_digest(statement: dict[str, Any] | None, digest: str) -> dict[str, Any] | None:
    return statement if statement and statement.get("digest") == digest else None


def _refuse_unless_passed(version: ModelVersion, verdict: dict[str, Any] | None) -> None:
    remedy = f"run `fraudops validate --version {version.version}`"
    if verdict is None:
        stale = "a verdict for another bundle" if version.verdict else "no verdict"
        raise RefusedError(f"version {version.version} has {stale}; {remedy}")
    if not verdict.get("passed"):
        failed = ", ".join(
            str(gate.get("name")) for gate in verdict.get("gates", []) if not gate.get("passed")
        )
        raise RefusedError(
            f"version {version.version} did not pass validation ({failed or 'see its verdict'}); "
            "`--force --reason …` waives the gates for one promotion"
        )


def _moved(verdict: dict[str, Any], current: ServingEntry, digest: str) -> bool:
    """Whether production is no longer what the verdict compared with."""
    compared = verdict.get("compared_to") or {}
    return current.digest not in (compared.get("digest"), digest)


def _refuse_worse(version: ModelVersion, serving: str, gates: Sequence[FailedGate]) -> None:
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        details = "; ".join(f"{gate.name}: {gate.detail}" for gate in failed)
        raise RefusedError(
            f"production has moved to version {serving} since the verdict, and against it "
            f"version {version.version} is worse: {details}"
        )


def _short(verdict: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the part of a verdict that the record keeps: enough to say why the version serves."""
    return (
        {
            key: verdict[key]
            for key in ("digest", "test_digest", "passed", "compared_to", "at")
            if key in verdict
        }
        if verdict
        else None
    )
