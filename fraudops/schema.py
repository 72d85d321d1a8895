"""The feature schema: the columns that a model reads, with their ranges.

A schema is data (`schema.yaml`), so that other columns need no change of code.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from fraudops.errors import SettingsError

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
RESERVED = frozenset({"transaction_id", "entity_key", "prediction_id", "fraud_probability"})


@dataclass(frozen=True)
class Feature:
    """A numeric column with the closed range that /predict accepts."""

    name: str
    minimum: float
    maximum: float


@dataclass(frozen=True)
class FeatureSchema:
    """A schema with its features in the order of the model's columns.

    The column `time` orders the rows and is never a feature. The column `amount` is a feature.
    """

    name: str
    label: str
    time: str
    amount: str
    features: tuple[Feature, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of a data file: time, features, label."""
        return (self.time, *self.names, self.label)

    @property
    def fingerprint(self) -> str:
        """The sha256 of the schema as canonical JSON. Schemas with one fingerprint are equal."""
        # Not fraudops.canonical: it writes some floats differently, and the fingerprint of a schema
        # must be the same in every release.
        return hashlib.sha256(
            json.dumps(self.to_mapping(), sort_keys=True, separators=(",", ":")).encode()
        ).hexdigest()

    def to_mapping(self) -> dict[str, Any]:
        """Return the schema in the form of `schema.yaml`, with the features as an ordered list."""
        features = [
            {"name": f.name, "minimum": f.minimum, "maximum": f.maximum} for f in self.features
        ]
        return {
            "name": self.name,
            "label": self.label,
            "time": self.time,
            "amount": self.amount,
            "features": features,
        }

    @classmethod
    def from_mapping(cls, raw: Any, where: str = "schema") -> "FeatureSchema":
        """Return the schema in `raw`; `where` names its source in messages.

        Raises SettingsError, which names the wrong key.
        """
        if not isinstance(raw, dict):
            raise SettingsError(
                f"{where}: expected a mapping with name, label, time, amount and features"
            )
        known = {"name", "label", "time", "amount", "features"}
        for key in sorted(known - raw.keys()):
            raise SettingsError(f"{where}: the key {key!r} is missing")
        for key in sorted(map(str, raw.keys() - known)):
            raise SettingsError(
                f"{where}: the key {key!r} is unknown; known are {', '.join(sorted(known))}"
            )
        if not isinstance(raw["features"], list) or not raw["features"]:
            raise SettingsError(
                f"{where}: features must be a list of {{name, minimum, maximum}}, "
                "with at least one entry"
            )
        features = tuple(
            _feature(item, f"{where}: features[{index}]")
            for index, item in enumerate(raw["features"])
        )
        name, label, time, amount = (
            _name(raw[key], f"{where}: {key}") for key in ("name", "label", "time", "amount")
        )
        schema = cls(name, label, time, amount, features)
        schema._check(where)
        return schema

    def _check(self, where: str) -> None:
        names = [self.label, self.time, *self.names]
        for name in names:
            if names.count(name) > 1:
                raise SettingsError(f"{where}: the column {name!r} is named more than once")
            if name in RESERVED:
                raise SettingsError(
                    f"{where}: the column name {name!r} is reserved for the HTTP contract; "
                    "rename the column"
                )
        if self.amount not in self.names:
            raise SettingsError(
                f"{where}: amount names {self.amount!r}, which is not among the features"
            )


def load_schema(path: str | Path | None = None) -> FeatureSchema:
    """Read a `schema.yaml`, or without a path the packaged schema of the ULB credit-card data.

    Raises SettingsError.
    """
    if path is None:
        text, where = (
            resources.files("fraudops").joinpath("schemas/ulb.yaml").read_text(),
            "schemas/ulb.yaml",
        )
    else:
        where = str(path)
        try:
            text = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"{where}: the schema cannot be read ({type(error).__name__}); "
                "give the path of a schema.yaml"
            ) from error
    try:
        return FeatureSchema.from_mapping(yaml.safe_load(text), where)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise SettingsError(
            f"{where}: not valid YAML{f' at line {mark.line + 1}' if mark else ''}"
        ) from error


def _feature(item: Any, where: str) -> Feature:
    if not isinstance(item, dict) or set(item) != {"name", "minimum", "maximum"}:
        raise SettingsError(f"{where}: expected exactly name, minimum and maximum")
    bounds = [item["minimum"], item["maximum"]]
    if not all(
        isinstance(bound, (int, float))
        and not isinstance(bound, bool)  # a bool is an int
        and abs(bound) < float("inf")
        for bound in bounds
    ):
        raise SettingsError(f"{where}: minimum and maximum must be finite numbers")
    if not bounds[0] < bounds[1]:
        raise SettingsError(f"{where}: minimum must be below maximum")
    return Feature(_name(item["name"], f"{where}.name"), float(bounds[0]), float(bounds[1]))


def _name(value: Any, where: str) -> str:
    pattern = re.compile(r"[A-Za-z0-9_-]{1,63}") if where.endswith(": name") else NAME
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise SettingsError(
            f"{where}: must be 1 to 63 letters, digits or underscores and not begin with a digit"
        )
    return value
