"""Groups of settings for the audit: durability, protection of the features, and retention."""

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, SecretStr, field_validator

from fraudops.feature_encryption import Protect, protection, read_keys
from fraudops.settings.groups import Group
from fraudops.spool.options import SpoolOptions


class DecryptionSettings(Group):
    """Keys for reading encrypted features.

    A program that only reads features ignores the group's other variables, so that one environment
    serves all programs.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: SecretStr | None = Field(
        None,
        description="Keys of 32 bytes in base64, with commas between them. The first one encrypts "
        "or hashes the audited features, and all of them decrypt.",
    )

    @field_validator("key")
    @classmethod
    def _check_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value:
            read_keys(value.get_secret_value())
        return value

    def keys(self) -> tuple[bytes, ...]:
        return read_keys(self.key.get_secret_value()) if self.key else ()


class AuditSettings(DecryptionSettings):
    """Durability and protection of the audit records.

    `durability` is the place of a record before its answer is sent.

    spool   On disk. The record survives the end of process and container.
    memory  In the worker. SIGKILL loses the last few milliseconds.
    commit  In PostgreSQL. The service answers nothing while PostgreSQL is down.
    off     Nowhere. This is for benchmarks only.

    `fsync` decides what the spool loses with the node.

    always    Nothing.
    interval  The records of the last `fsync_interval_ms`.
    never     The records that the kernel has not written yet.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    durability: Literal["off", "memory", "spool", "commit"] = Field(
        "spool",
        description="Place of a record before its answer is sent: `memory` is the worker's memory, "
        "`spool` the disk, `commit` PostgreSQL. `off` audits nothing.",
    )
    memory_max_bytes: int = Field(
        32 << 20,
        ge=1 << 20,
        description="With durability `memory`: maximum size of the records that a worker holds "
        "until the spool takes them. A full worker answers 503.",
    )
    commit_timeout_seconds: float = Field(
        5.0,
        gt=0,
        le=60,
        description="With durability `commit`: seconds to wait until PostgreSQL has confirmed the "
        "row. After that the answer is 503.",
    )
    features: Literal["plain", "sealed", "hashed"] = Field(
        "plain",
        description="How the features of an audited prediction are stored: `plain`, `sealed` "
        "(encrypted) or `hashed` (by a keyed hash).",
    )
    fsync: Literal["always", "interval", "never"] = Field(
        SpoolOptions.fsync,
        description="Loss of the spool when a node is lost: nothing with `always`, the last "
        "fsync_interval_ms with `interval`, and with `never` what the kernel has not yet written. "
        "The end of a process or container loses nothing.",
    )
    fsync_interval_ms: int = Field(
        SpoolOptions.fsync_interval_ms,
        ge=1,
        le=10_000,
        description="With fsync `interval`: milliseconds between two calls of fsync.",
    )
    spool_max_bytes: int = Field(
        SpoolOptions.max_bytes,
        ge=1 << 20,
        description="Maximum size of the spool. When it is full, the service answers 503, because "
        "it scores nothing that it cannot audit.",
    )
    segment_max_bytes: int = Field(
        SpoolOptions.segment_bytes,
        ge=1 << 16,
        description="Size at which a segment of the spool is closed.",
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


class RetentionPeriodSettings(Group):
    """The number of days for which the audit keeps predictions.

    A program that only needs this number ignores the group's other variables.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    days: int = Field(
        400,
        ge=1,
        le=36_500,
        description="Whole days of predictions older than this are removed from the audit.",
    )


class RetentionSettings(RetentionPeriodSettings):
    """The retention of audited predictions and labels, with the export of removed days."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label_days: int | None = Field(
        None,
        ge=1,
        le=36_500,
        description="Labels that arrived more than so many days ago are removed from the audit. "
        "If unset, as many as `days`.",
    )
    export: Path | None = Field(
        None,
        description="Folder to which each day is exported as Parquet before it is removed. "
        "If unset, nothing is exported.",
    )
