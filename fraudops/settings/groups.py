"""Groups of settings for drift, the gates, promotions and the cluster."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from fraudops.state import State
from fraudops.validation.gates import GateSettings


class Group(BaseModel):
    """Settings whose variables share a prefix, such as `FRAUDOPS_DRIFT__`."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DriftSettings(Group):
    """Limits above which a window of audited predictions counts as drifted.

    The window is compared with the drift reference of the version in production.
    """

    minimum_rows: int = Field(500, ge=50, description="A window with fewer rows gets no verdict.")
    maximum_rows: int = Field(
        50_000,
        ge=1_000,
        le=1_000_000,
        description="Maximum number of rows to compare. A larger window is sampled evenly.",
    )
    score_threshold: float = Field(
        0.2, gt=0, description="Highest PSI of the score. A window above it has drifted."
    )
    feature_threshold: float = Field(
        0.2, gt=0, description="Highest PSI of a feature. A window above it has drifted."
    )
    feature_thresholds: dict[str, float] = Field(
        {},
        description='Limits of single features as JSON, such as {"Amount": 0.4}. '
        "The other features keep feature_threshold.",
    )


class GateLimits(Group):
    """Limits of the gates that a version must pass before it may serve."""

    roc_auc: float = Field(
        GateSettings.roc_auc, ge=0, le=1, description="ROC-AUC on the test rows must be above this."
    )
    average_precision: float = Field(
        GateSettings.average_precision,
        ge=0,
        le=1,
        description="Average precision at the natural prevalence must be at least this.",
    )
    roc_auc_difference: float = Field(
        GateSettings.roc_auc_difference,
        ge=-1,
        le=1,
        description="ROC-AUC minus that of the production model: "
        "the lower bound of its 95 % interval must be at least this.",
    )
    average_precision_difference: float = Field(
        GateSettings.average_precision_difference,
        ge=-1,
        le=1,
        description="Average precision minus that of the production model: "
        "the lower bound of its 95 % interval must be at least this.",
    )
    latency_ms: float = Field(
        GateSettings.latency_ms,
        gt=0,
        description="Highest median duration of scoring one row, in milliseconds.",
    )
    scorer_difference: float = Field(
        GateSettings.scorer_difference,
        gt=0,
        le=0.01,
        description="Highest difference between the probabilities of scorer and pipeline. "
        "It holds even if the bundle permits more.",
    )
    decision_flips: int = Field(
        GateSettings.decision_flips,
        ge=0,
        description="Number of test rows on which scorer and pipeline may decide differently.",
    )
    resamples: int = Field(
        GateSettings.resamples,
        ge=100,
        le=10_000,
        description="Number of bootstrap resamples for each interval.",
    )
    seed: int = Field(GateSettings.seed, ge=0, description="Random seed of the bootstrap.")

    def as_gate_settings(self) -> GateSettings:
        """Return the limits in the form that the gates take."""
        return GateSettings(**self.model_dump())


class PromotionSettings(Group):
    """Time limits of a promotion, and who may start one."""

    prepare_seconds: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="Seconds in which every pod must have prepared the version.",
    )
    activate_seconds: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Seconds in which every pod must have activated the version.",
    )
    second_seconds: float = Field(
        45.0,
        gt=0,
        le=3600,
        description="Additional seconds after an unresponsive pod was deleted, "
        "or the promotion was undone or refused.",
    )
    rollout_seconds: float = Field(
        600.0,
        gt=0,
        le=86_400,
        description="Seconds in which the pods of a rollout must become ready.",
    )
    strategies: tuple[Literal["broadcast", "rollout"], ...] = Field(
        ("broadcast", "rollout"),
        description="How a version may reach the pods, as JSON. Without rollout, a version with "
        "another schema cannot be promoted.",
    )
    authenticated: bool = Field(
        False,
        description="The cluster's admission policy refuses a Job whose requester is not its "
        "creator.",
    )
    approval_required: bool = Field(
        False, description="A promotion waits until another user has approved its Job."
    )
    approval_seconds: float = Field(
        1800.0,
        gt=0,
        le=86_400,
        description="Seconds to wait for the approval. Then the promotion is refused.",
    )

    @field_validator("strategies")
    @classmethod
    def _check_broadcast(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        # A rollback to the same schema goes by broadcast, which needs no right of its own.
        if "broadcast" not in value:
            raise ValueError("the list must have broadcast")
        return value


class ClusterSettings(Group):
    """The Helm release that a program belongs to.

    They are set in a cluster only. Without a release the programs use the state folder of this
    machine.
    """

    release: str | None = Field(
        None,
        pattern=r"[a-z0-9]([-a-z0-9]*[a-z0-9])?",
        description="Prefix of this release's objects in Kubernetes.",
    )
    namespace: str | None = Field(
        None,
        description="Namespace of the release. If unset, that of the pod or of the kubeconfig.",
    )


class VerificationSettings(Group):
    """Public keys for a program that verifies signatures and signs nothing.

    It ignores the group's other variables, so that one environment serves all programs.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    public_keys: Path | None = Field(
        None,
        description="Folder with the public keys of the release: `verdict*.pem` and `waiver*.pem`. "
        "If unset, the keys that `fraudops up` made in the state folder.",
    )

    def public_keys_of(self, state: State) -> Path:
        """Return the folder of the public keys; `state` is the state folder of one machine."""
        return self.public_keys or state.public_keys


class SigningSettings(VerificationSettings):
    """Keys that sign verdicts and waivers, and keys that verify them.

    Each program gets only the key that it needs. A container without a key cannot sign.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict_key: Path | None = Field(
        None,
        description="File of the private key that signs verdicts, for `validate` alone. "
        "If unset, the key that `fraudops up` made.",
    )
    waiver_key: Path | None = Field(
        None,
        description="File of the private key that signs waivers, for `waive` alone. "
        "If unset, the key that `fraudops up` made.",
    )
    waivers: Literal["allowed", "forbidden"] = Field(
        "allowed",
        description="Whether a signed waiver can replace a passing verdict. "
        "`forbidden` refuses every waiver.",
    )

    def verdict_key_of(self, state: State) -> Path:
        """Return the file of the verdict key; `state` is the state folder of one machine."""
        return self.verdict_key or state.verdict_key

    def waiver_key_of(self, state: State) -> Path:
        """Return the file of the waiver key; `state` is the state folder of one machine."""
        return self.waiver_key or state.waiver_key
