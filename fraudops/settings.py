"""Settings of every program, from the environment only: frozen, built once in `main()`, unknown
`FRAUDOPS_` names refused.
"""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fraudops.errors import SettingsError
from fraudops.feature_encryption import Protect, protection, read_keys
from fraudops.spool.options import SpoolOptions
from fraudops.validation.gates import GateSettings

PREFIX = "FRAUDOPS_"
ADMIN_PORT_HELP = "A port of their own for the admin calls, as in the cluster; without one they are on `port` too."
POD_HELP = "This pod's name, as audited predictions and /reload answers carry it."
SPOOL_VOLUME_HELP = "A volume that outlives pods: the spool is then a folder of the pod's name there, and what dead pods have left there is shipped too."
ADMIN_TOKEN_HELP = "Bearer token of the admin calls; without one they are refused. On one machine it lies in the state folder."


class Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OpeningSettings(Group):
    """What reads sealed features.

    The group's other settings are the service's, and may be set beside it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: SecretStr | None = Field(
        None,
        description="Keys of 32 bytes in base64, commas between: the first seals or hashes the audited features, each opens what it has sealed.",
    )

    @field_validator("key")
    @classmethod
    def _are_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value:
            read_keys(value.get_secret_value())
        return value

    def keys(self) -> tuple[bytes, ...]:
        return read_keys(self.key.get_secret_value()) if self.key else ()


class AuditSettings(OpeningSettings):
    """`durability` says where a record is before its answer leaves: in the spool, which the death
    of process and container spares; with `memory` only in the worker, whose death by force takes
    the last few milliseconds' along; with `commit` in PostgreSQL, without which nothing is
    answered; `off` is for measuring. `fsync` of the spool: `always` survives the node,
    `interval` (every fsync_interval_ms) the process and container, and `never` leaves it to the
    kernel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    durability: Literal["off", "memory", "spool", "commit"] = Field(
        "spool",
        description="Where an answer's record must be before it leaves: the worker's memory, the spool on disk, PostgreSQL; off audits nothing.",
    )
    memory_max_bytes: int = Field(
        32 << 20,
        ge=1 << 20,
        description="What a worker holds at most of what the spool has not taken yet when durability is memory; when full it answers 503.",
    )
    commit_timeout_seconds: float = Field(
        5.0,
        gt=0,
        le=60,
        description="Seconds after which the answer is 503 when durability is commit and PostgreSQL has not confirmed the row.",
    )
    features: Literal["plain", "sealed", "hashed"] = Field(
        "plain",
        description="How the features of an audited prediction are kept: as they are, encrypted, or as a keyed hash.",
    )
    fsync: Literal["always", "interval", "never"] = Field(
        SpoolOptions.fsync,
        description="What of the spool survives: with always the node, with interval the process, with never what the kernel does.",
    )
    fsync_interval_ms: int = Field(
        SpoolOptions.fsync_interval_ms,
        ge=1,
        le=10_000,
        description="Milliseconds between two fsyncs when fsync is interval.",
    )
    spool_max_bytes: int = Field(
        SpoolOptions.max_bytes,
        ge=1 << 20,
        description="Room of the audit spool; when it is full the service answers 503 rather than score unaudited.",
    )
    segment_max_bytes: int = Field(
        SpoolOptions.segment_bytes,
        ge=1 << 16,
        description="A spool segment is closed at this size.",
    )

    def protection(self) -> Protect | None:
        return protection(self.features, self.keys())

    def spool_options(self) -> SpoolOptions:
        return SpoolOptions(
            fsync=self.fsync,
            fsync_interval_ms=self.fsync_interval_ms,
            max_bytes=self.spool_max_bytes,
            segment_bytes=self.segment_max_bytes,
        )


class DriftSettings(Group):
    """When a window of audited predictions counts as drifted from the production version's own
    reference.
    """

    minimum_rows: int = Field(500, ge=50, description="A window with fewer rows is not judged.")
    maximum_rows: int = Field(
        50_000,
        ge=1_000,
        le=1_000_000,
        description="Rows compared at most; a larger window is sampled evenly.",
    )
    score_threshold: float = Field(
        0.2, gt=0, description="PSI of the score above which a window exceeds."
    )
    feature_threshold: float = Field(
        0.2, gt=0, description="PSI of a feature above which a window exceeds."
    )
    feature_thresholds: dict[str, float] = Field(
        {},
        description='Thresholds of single features as JSON, such as {"Amount": 0.4}; the others keep feature_threshold.',
    )


class GateLimits(Group):
    """What `validate` asks of a version before it may serve."""

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
        description="ROC-AUC minus production's: its lower 95 % bound must be at least this.",
    )
    average_precision_difference: float = Field(
        GateSettings.average_precision_difference,
        ge=-1,
        le=1,
        description="Average precision minus production's: its lower 95 % bound must be at least this.",
    )
    latency_ms: float = Field(
        GateSettings.latency_ms,
        gt=0,
        description="Milliseconds that the median of scoring one row may take.",
    )
    scorer_difference: float = Field(
        GateSettings.scorer_difference,
        gt=0,
        le=0.01,
        description="Probability by which scorer and pipeline may differ, whatever the bundle allows itself.",
    )
    decision_flips: int = Field(
        GateSettings.decision_flips,
        ge=0,
        description="Test rows on which scorer and pipeline may decide differently.",
    )
    resamples: int = Field(
        GateSettings.resamples,
        ge=100,
        le=10_000,
        description="Bootstrap resamples behind every interval.",
    )
    seed: int = Field(GateSettings.seed, ge=0, description="Seed of the bootstrap.")

    def as_gate_settings(self) -> GateSettings:
        """Return the limits as the gates take them."""
        return GateSettings(**self.model_dump())


class ClusterSettings(Group):
    """Set in the cluster only: without a release the programs work on this machine's state folder."""

    release: str | None = Field(
        None,
        pattern=r"[a-z0-9]([-a-z0-9]*[a-z0-9])?",
        description="Prefix of this release's objects in Kubernetes.",
    )
    namespace: str | None = Field(
        None,
        description="The namespace of the release; by default that of the pod or of the kubeconfig.",
    )


class KeepingSettings(Group):
    """How long audited predictions are kept.

    The group's other settings are the retention's, and may be set beside it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    days: int = Field(
        400,
        ge=1,
        le=36_500,
        description="Whole days of predictions older than this are taken out of the audit.",
    )


class RetentionSettings(KeepingSettings):
    """When days leave the audit, and what becomes of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    export: Path | None = Field(
        None, description="A folder that each day is written to as Parquet before it is taken out."
    )


class PromotionSettings(Group):
    prepare_seconds: float = Field(
        60.0, gt=0, le=3600, description="Seconds in which every pod must have prepared a version."
    )
    activate_seconds: float = Field(
        30.0, gt=0, le=3600, description="Seconds in which every pod must have followed a commit."
    )
    second_seconds: float = Field(
        45.0,
        gt=0,
        le=3600,
        description="Seconds once more after a silent pod was deleted or the promotion was undone.",
    )
    rollout_seconds: float = Field(
        600.0, gt=0, le=86_400, description="Seconds in which the pods of a rollout must be ready."
    )


class ProgramSettings(BaseSettings):
    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        populate_by_name=True,
    )

    state: Path = Field(
        Path(".fraudops"), description="The folder that holds everything of one running product."
    )
    model_name: str = Field("credit-fraud", description="The registered model's name in MLflow.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least severe log lines that are written."
    )

    @classmethod
    def from_environment(cls) -> Self:
        """Raises SettingsError naming each variable at fault, never its value."""
        _refuse_unknown()
        try:
            return cls()
        except ValidationError as error:
            faults = [
                f"{_variable(fault['loc'])}: {fault['msg']}"
                for fault in error.errors(include_input=False, include_url=False)
            ]
            raise SettingsError("; ".join(faults)) from None


class InferenceSettings(ProgramSettings):
    host: str = Field("127.0.0.1", description="The address that the service listens on.")
    port: int = Field(8000, ge=1, le=65535, description="The port that the service listens on.")
    admin_port: int | None = Field(None, ge=1, le=65535, description=ADMIN_PORT_HELP)
    workers: int = Field(2, ge=1, le=64, description="Worker processes of one pod.")
    pod: str = Field("local", description=POD_HELP)
    spool_volume: Path | None = Field(None, description=SPOOL_VOLUME_HELP)
    admin_token: SecretStr | None = Field(None, description=ADMIN_TOKEN_HELP)
    mlflow_tracking_uri: str | None = Field(
        None,
        validation_alias="MLFLOW_TRACKING_URI",
        description="The MLflow server that bundles are fetched from.",
    )
    record_poll_seconds: float = Field(
        2.0, gt=0, le=60, description="Seconds between two looks at the serving record."
    )
    graceful_timeout_seconds: int = Field(
        20,
        ge=1,
        le=600,
        description="Seconds that a stopping worker may take for the requests it has begun.",
    )
    drain_seconds: float = Field(
        1.0,
        ge=0,
        le=300,
        description="Seconds, at most half of the graceful timeout, in which a stopping worker still answers, with `Connection: close`.",
    )
    rollout: str | None = Field(
        None,
        description="`epoch/version/digest` that this pod was made for; obeyed only while the serving record reserves or serves the same.",
    )
    cluster: ClusterSettings = ClusterSettings()
    audit: AuditSettings = AuditSettings()

    @field_validator("audit")
    @classmethod
    def _has_its_key(cls, value: AuditSettings) -> AuditSettings:
        if value.features != "plain" and not value.key:
            raise ValueError(f"features are to be {value.features}: set FRAUDOPS_AUDIT__KEY")
        return value


class ShipperSettings(ProgramSettings):
    database_url: SecretStr = Field(
        validation_alias="DATABASE_URL",
        description="The audit database, postgresql://USER:PASSWORD@HOST:PORT/NAME.",
    )
    pod: str = Field("local", description=POD_HELP)
    spool_volume: Path | None = Field(None, description=SPOOL_VOLUME_HELP)
    admin_token: SecretStr | None = Field(None, description=ADMIN_TOKEN_HELP)
    admin_port: int | None = Field(None, ge=1, le=65535, description=ADMIN_PORT_HELP)
    cluster: ClusterSettings = ClusterSettings()
    audit: AuditSettings = AuditSettings()
    retention: KeepingSettings = KeepingSettings()


class ClusterJobSettings(ProgramSettings):
    """What every job reads that works beside a running product, here or in the cluster."""

    cluster: ClusterSettings = ClusterSettings()


class ValidateJobSettings(ClusterJobSettings):
    gates: GateLimits = GateLimits()


class PromoteJobSettings(ValidateJobSettings):
    """Promote, roll back, reconcile, list models, and what promotes at its end: pipeline and
    bootstrap.
    """

    environment: Literal["development", "production"] = Field(
        "development",
        description="In production a model that was trained on the packaged sample is refused.",
    )
    promotion: PromotionSettings = PromotionSettings()
    admin_token: SecretStr | None = Field(None, description=ADMIN_TOKEN_HELP)
    admin_port: int | None = Field(None, ge=1, le=65535, description=ADMIN_PORT_HELP)
    request_id: str | None = Field(
        None, description="The promotion's id, the same for all tries: the Job's UID."
    )


class DriftJobSettings(ClusterJobSettings):
    drift: DriftSettings = DriftSettings()
    audit: OpeningSettings = OpeningSettings()


class RetentionJobSettings(ClusterJobSettings):
    retention: RetentionSettings = RetentionSettings()


# What the command line reads from the environment itself, where a flag is not given.
COMMAND_LINE = {
    "FRAUDOPS_DATA": "The data file that `--data` names.",
    "FRAUDOPS_MARK_OUTPUT": "Set by `--on-cluster`: marks each line of standard output, since a pod's log mixes it with standard error.",
    "FRAUDOPS_SCHEMA": "The schema.yaml that `--schema` names.",
    "FRAUDOPS_STATE": "The state folder that `--state` names.",
    "FRAUDOPS_URL": "Where the inference service answers, instead of what `fraudops up` chose.",
}
PROGRAMS: tuple[type[ProgramSettings], ...] = (
    InferenceSettings,
    ShipperSettings,
    ValidateJobSettings,
    PromoteJobSettings,
    DriftJobSettings,
    RetentionJobSettings,
)


def known_variables() -> frozenset[str]:
    """Every `FRAUDOPS_` variable that some program or the command line reads."""
    return frozenset(
        {name for program in PROGRAMS for name in _names(program, PREFIX)} | COMMAND_LINE.keys()
    )


def _names(model: type[BaseModel], prefix: str) -> set[str]:
    names: set[str] = set()
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Group):
            names |= _names(kind, f"{prefix}{name.upper()}__")
        elif field.validation_alias is None:
            names.add(f"{prefix}{name.upper()}")
    return names


def _refuse_unknown() -> None:
    known = known_variables()
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    if unknown:
        near = get_close_matches(unknown[0], known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise SettingsError(
            f"unknown setting {', '.join(unknown)}{hint}; `fraudops settings` lists the known ones"
        )


def _variable(location: tuple[Any, ...]) -> str:
    names = [str(part) for part in location]
    return names[0] if names[0].isupper() else PREFIX + "__".join(name.upper() for name in names)
