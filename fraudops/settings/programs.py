"""Settings of each program, and the check for unknown variables."""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fraudops.errors import SettingsError
from fraudops.settings.audit import (
    AuditSettings,
    DecryptionSettings,
    RetentionPeriodSettings,
    RetentionSettings,
)
from fraudops.settings.groups import (
    ClusterSettings,
    DriftSettings,
    GateLimits,
    Group,
    PromotionSettings,
    SigningSettings,
    VerificationSettings,
)
from fraudops.settings.serving import ClientAuthSettings, HttpSettings

PREFIX = "FRAUDOPS_"
RECORD_POLL_HELP = "Seconds between two reads of the serving record by a pod."
WITHOUT_MODEL_HELP = (
    "Whether a pod without a model is ready while the serving record exists and has never named a "
    "model. It then answers predictions with 503."
)
ADMIN_PORT_HELP = (
    "A separate port for the admin calls, as in the cluster. "
    "If unset, the service answers them on `port` too."
)
POD_HELP = "Name of this pod, in audited predictions and in answers of /reload."
SPOOL_VOLUME_HELP = (
    "A volume that outlives pods. The spool is then a folder of the pod's name on it, and the "
    "shipper also ships what dead pods left there."
)
ADMIN_TOKEN_HELP = (
    "Bearer token of the admin calls. Without one they are refused. "
    "On one machine it is in the state folder."
)


class ProgramSettings(BaseSettings):
    """Settings that every program has."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        populate_by_name=True,
    )

    state: Path = Field(
        Path(".fraudops"), description="Folder with all files of one running product."
    )
    model_name: str = Field("credit-fraud", description="Name of the registered model in MLflow.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest severity of the log lines that are written."
    )

    @classmethod
    def from_environment(cls) -> Self:
        """Build the settings from the environment.

        Raises SettingsError, which names each wrong variable and never its value.
        """
        _refuse_unknown()
        try:
            return cls()
        except ValidationError as error:
            faults = [
                f"{_variable(fault['loc'])}: {fault['msg']}"
                for fault in error.errors(include_input=False, include_url=False)
            ]
            # `from None`: pydantic's own message quotes the values, and some of them are secrets.
            raise SettingsError("; ".join(faults)) from None


class InferenceSettings(ProgramSettings):
    """Settings of the inference service."""

    host: str = Field("127.0.0.1", description="Address that the service listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port that the service listens on.")
    admin_port: int | None = Field(None, ge=1, le=65535, description=ADMIN_PORT_HELP)
    workers: int = Field(2, ge=1, le=64, description="Worker processes in each pod.")
    pod: str = Field("local", description=POD_HELP)
    spool_volume: Path | None = Field(None, description=SPOOL_VOLUME_HELP)
    admin_token: SecretStr | None = Field(None, description=ADMIN_TOKEN_HELP)
    mlflow_tracking_uri: str | None = Field(
        None,
        validation_alias="MLFLOW_TRACKING_URI",
        description="URL of the MLflow server that has the bundles.",
    )
    record_poll_seconds: float = Field(2.0, gt=0, le=60, description=RECORD_POLL_HELP)
    ready_without_model: bool = Field(False, description=WITHOUT_MODEL_HELP)
    graceful_timeout_seconds: int = Field(
        20,
        ge=1,
        le=600,
        description="Seconds in which a stopping worker may finish the requests that it has "
        "started.",
    )
    drain_seconds: float = Field(
        1.0,
        ge=0,
        le=300,
        description="Seconds of the graceful timeout, at most half of it, in which a stopping "
        "worker still accepts requests. It answers them with `Connection: close`.",
    )
    rollout: str | None = Field(
        None,
        description="`epoch/version/digest` of the rollout that created this pod. It is ignored "
        "unless the serving record reserves or serves the same.",
    )
    cluster: ClusterSettings = ClusterSettings()
    audit: AuditSettings = AuditSettings()
    signing: VerificationSettings = VerificationSettings()
    http: HttpSettings = HttpSettings()
    client_auth: ClientAuthSettings = ClientAuthSettings()

    @field_validator("audit")
    @classmethod
    def _check_key(cls, value: AuditSettings) -> AuditSettings:
        # Not checked in the group, because the shipper ships protected features without the key.
        if value.features != "plain" and not value.key:
            raise ValueError(f"{value.features} features need a key: set FRAUDOPS_AUDIT__KEY")
        return value


class ShipperSettings(ProgramSettings):
    """Settings of the shipper."""

    database_url: SecretStr = Field(
        validation_alias="DATABASE_URL",
        description="URL of the audit database, postgresql://USER:PASSWORD@HOST:PORT/NAME, or "
        "`file:PATH` of a file with it. Each new connection reads the file. "
        "docs/operations/postgresql.md has the options.",
    )
    pod: str = Field("local", description=POD_HELP)
    spool_volume: Path | None = Field(None, description=SPOOL_VOLUME_HELP)
    admin_token: SecretStr | None = Field(None, description=ADMIN_TOKEN_HELP)
    admin_port: int | None = Field(None, ge=1, le=65535, description=ADMIN_PORT_HELP)
    cluster: ClusterSettings = ClusterSettings()
    audit: AuditSettings = AuditSettings()
    retention: RetentionPeriodSettings = RetentionPeriodSettings()


class ClusterJobSettings(ProgramSettings):
    """Settings of a job that uses a running product, on this machine or in the cluster."""

    cluster: ClusterSettings = ClusterSettings()


class BundleJobSettings(ClusterJobSettings):
    """Settings of a job that opens the bundle of a validated version: `score` and `drift`."""

    signing: VerificationSettings = VerificationSettings()


class ValidateJobSettings(ClusterJobSettings):
    """Settings of `fraudops validate`."""

    gates: GateLimits = GateLimits()
    signing: SigningSettings = SigningSettings()
    production_url: str | None = Field(
        None,
        description="URL of the pods of the inference service. If set, `validate` asks a pod which "
        "version serves. If unset, it reads the serving record, which in a cluster needs an "
        "account.",
    )


class PromoteJobSettings(ValidateJobSettings):
    """Settings of the jobs that read or change the serving record.

    They are promote, rollback, reconcile, models and promotions. Pipeline and install read them
    too, because they promote at their end.
    """

    environment: Literal["development", "production"] = Field(
        "development",
        description="`production` refuses a model that was trained on the packaged sample.",
    )
    promotion: PromotionSettings = PromotionSettings()
    admin_token: SecretStr | None = Field(None, description=ADMIN_TOKEN_HELP)
    admin_port: int | None = Field(None, ge=1, le=65535, description=ADMIN_PORT_HELP)
    record_poll_seconds: float = Field(2.0, gt=0, le=60, description=RECORD_POLL_HELP)
    request_id: str | None = Field(
        None, description="Id of the request: the UID of the Job, the same for all its tries."
    )
    requested_by: str | None = Field(
        None,
        description="User who created the Job, from its annotation `fraudops.io/requested-by`. "
        "Empty: a controller created it.",
    )
    job: str | None = Field(
        None, description="Name of the Job. `fraudops approve` writes the approval on it."
    )


class DriftJobSettings(BundleJobSettings):
    """Settings of `fraudops drift`."""

    drift: DriftSettings = DriftSettings()
    audit: DecryptionSettings = DecryptionSettings()


class RetentionJobSettings(ClusterJobSettings):
    """Settings of `fraudops retention`."""

    retention: RetentionSettings = RetentionSettings()


# Variables that the command line reads itself when an option is missing.
COMMAND_LINE = {
    "FRAUDOPS_API_KEY": "API key of the inference service, if it authenticates its clients.",
    "FRAUDOPS_DATA": "The data file, if `--data` is missing.",
    "FRAUDOPS_DATA_URL": "Where `data fetch` fetches from, if `--mirror` is missing.",
    "FRAUDOPS_MARK_OUTPUT": (
        "Marks each line of standard output, because a pod's log mixes it with standard error. "
        "`--on-cluster` sets it."
    ),
    "FRAUDOPS_SCHEMA": "The schema.yaml, if `--schema` is missing.",
    "FRAUDOPS_STATE": "The state folder, if `--state` is missing.",
    "FRAUDOPS_WAIVER": "File of the signed waiver, which `waive` writes and `promote` reads.",
    "FRAUDOPS_URL": "URL of the inference service. If unset, the one that `fraudops up` chose.",
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
    """Return every `FRAUDOPS_` variable that a program or the command line reads."""
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
    # pydantic ignores unknown variables, so a typing error would keep the default unnoticed.
    known = known_variables()
    # pydantic reads a variable in any case of letters. A second one in small letters would win over
    # the one that an operator has set.
    unknown = sorted(
        name for name in os.environ if name.upper().startswith(PREFIX) and name not in known
    )
    if unknown:
        near = get_close_matches(unknown[0].upper(), known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise SettingsError(
            f"unknown setting {', '.join(unknown)}{hint}; `fraudops settings` lists the known ones"
        )


def _variable(location: tuple[Any, ...]) -> str:
    names = [str(part) for part in location]
    return names[0] if names[0].isupper() else PREFIX + "__".join(name.upper() for name in names)
