"""Settings of every program, from the environment only: frozen, built once in `main()`, unknown `FRAUDOPS_` names refused."""

import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from fraudops.errors import SettingsError

PREFIX = "FRAUDOPS_"


class Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AuditSettings(Group):
    """`fsync`: `always` survives the node, `interval` (every fsync_interval_ms) the process and container, and `never` leaves it to the kernel."""

    fsync: Literal["always", "interval", "never"] = "interval"
    fsync_interval_ms: int = Field(100, ge=1, le=10_000)
    spool_max_bytes: int = Field(1 << 30, ge=1 << 20)
    segment_max_bytes: int = Field(64 << 20, ge=1 << 16)


class ProgramSettings(BaseSettings):
    model_config = SettingsConfigDict(frozen=True, env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", populate_by_name=True)

    state: Path = Path(".fraudops")
    model_name: str = "credit-fraud"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def from_environment(cls) -> Self:
        """Raises SettingsError naming each variable at fault, never its value."""
        _refuse_unknown()
        try:
            return cls()
        except ValidationError as error:
            faults = [f"{_variable(fault['loc'])}: {fault['msg']}" for fault in error.errors(include_input=False, include_url=False)]
            raise SettingsError("; ".join(faults)) from None


class InferenceSettings(ProgramSettings):
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    workers: int = Field(2, ge=1, le=64)
    pod: str = "local"
    admin_token: SecretStr | None = None
    mlflow_tracking_uri: str | None = Field(None, validation_alias="MLFLOW_TRACKING_URI")
    record_poll_seconds: float = Field(2.0, gt=0, le=60)
    graceful_timeout_seconds: int = Field(20, ge=1, le=600)
    audit: AuditSettings = AuditSettings()


class ShipperSettings(ProgramSettings):
    database_url: SecretStr = Field(validation_alias="DATABASE_URL")
    audit: AuditSettings = AuditSettings()


# What the command line reads from the environment itself (`--data`, `--schema`, …).
COMMAND_LINE = frozenset({"FRAUDOPS_DATA", "FRAUDOPS_SCHEMA", "FRAUDOPS_STATE", "FRAUDOPS_URL"})
PROGRAMS: tuple[type[ProgramSettings], ...] = (InferenceSettings, ShipperSettings)


def known_variables() -> frozenset[str]:
    """Every `FRAUDOPS_` variable that some program or the command line reads."""
    return frozenset({name for program in PROGRAMS for name in _names(program, PREFIX)} | COMMAND_LINE)


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
        raise SettingsError(f"unknown setting {', '.join(unknown)}; `fraudops settings` lists the known ones")


def _variable(location: tuple[Any, ...]) -> str:
    names = [str(part) for part in location]
    return names[0] if names[0].isupper() else PREFIX + "__".join(name.upper() for name in names)
