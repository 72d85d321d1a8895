"""Which version may serve: one with a passing verdict, or a waiver, for exactly its digest;
compared again when production has moved.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from fraudops.errors import RefusedError
from fraudops.promotion.ports import PromotionCandidate
from fraudops.promotion.serving_record import ServingRecord, Strategy
from fraudops.registry import TAG_SAMPLE, ModelVersion


class FailedGate(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def passed(self) -> bool: ...

    @property
    def detail(self) -> str: ...


Environment = Literal["development", "production"]
Recompare = Callable[[ModelVersion], Sequence[FailedGate]]


def admit(
    version: ModelVersion,
    record: ServingRecord,
    strategy: Strategy,
    recompare: Recompare,
    environment: Environment = "development",
) -> PromotionCandidate:
    """Raises RefusedError with the reason and what to do.

    `recompare` takes the candidate and compares it with the record's version.

    In production no waiver lets a model of the packaged sample through.
    """
    sample = version.tags.get(TAG_SAMPLE) == "true"
    _refuse_sample(version.version, sample, environment)
    if version.digest is None or version.schema_fingerprint is None:
        raise RefusedError(
            f"version {version.version} carries no bundle of fraudops; "
            "train one with `fraudops train`"
        )
    current = record.current
    if (
        strategy == "broadcast"
        and current
        and current.schema_fingerprint != version.schema_fingerprint
    ):
        raise RefusedError(
            f"version {version.version} reads other columns than "
            f"version {current.version}, which serves: "
            "clients must follow, so it goes by `--strategy rollout`, never by broadcast"
        )
    verdict = _of_this_digest(version.verdict, version.digest)
    waiver = _of_this_digest(version.waiver, version.digest)
    if waiver is None:
        _refuse_unless_passed(version, verdict)
        if verdict and current and _moved(verdict, record, version.digest):
            _refuse_worse(version, current.version, recompare(version))
    return PromotionCandidate(
        version.version, version.digest, version.schema_fingerprint, _short(verdict), waiver, sample
    )


def way_back(record: ServingRecord, environment: Environment = "development") -> PromotionCandidate:
    """What served before, with the verdict or waiver that it was promoted with.

    Raises RefusedError: in production also for a model of the packaged sample.
    """
    if not record.stack:
        raise RefusedError("there is no earlier version to go back to")
    entry = record.stack[0]
    _refuse_sample(entry.version, entry.sample, environment)
    return PromotionCandidate(
        entry.version,
        entry.digest,
        entry.schema_fingerprint,
        entry.verdict,
        entry.waiver,
        entry.sample,
    )


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
            "`--force --reason …` writes a waiver"
        )


def _moved(verdict: dict[str, Any], record: ServingRecord, digest: str) -> bool:
    """Whether production is no longer what the verdict compared with."""
    compared = verdict.get("compared_to") or {}
    return record.current is not None and record.current.digest not in (
        compared.get("digest"),
        digest,
    )


def _refuse_worse(version: ModelVersion, serving: str, gates: Sequence[FailedGate]) -> None:
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        details = "; ".join(f"{gate.name}: {gate.detail}" for gate in failed)
        raise RefusedError(
            f"production has moved to version {serving} since the verdict, and against it "
            f"version {version.version} is worse: {details}"
        )


def _short(verdict: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the record keeps of a verdict: enough to say what let the version through."""
    return (
        {
            key: verdict[key]
            for key in ("digest", "test_digest", "passed", "compared_to", "at")
            if key in verdict
        }
        if verdict
        else None
    )
