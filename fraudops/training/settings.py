"""Settings of a training run: algorithm, hyperparameters, seed, split and costs.

The module is light to import, so that a wrong name is refused before any data is read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fraudops.errors import SettingsError
from fraudops.model.costs import Costs

ClassWeight = Literal["none", "balanced"] | Annotated[float, Field(gt=0, le=1e6)]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LogisticRegression(_Group):
    """Hyperparameters of logistic regression, under scikit-learn's names.

    `class_weight` as a number is the weight of a fraud relative to a genuine row. The defaults had
    the best mean average precision and ROC-AUC over four forward-chained folds of the training rows
    of the packaged sample.
    """

    C: float = Field(0.01, gt=0)
    class_weight: ClassWeight = "none"
    l1_ratio: float = Field(0.0, ge=0, le=1)
    max_iter: int = Field(1000, ge=1, le=1_000_000)
    tol: float = Field(1e-4, gt=0)


class HistGradientBoosting(_Group):
    """Hyperparameters of gradient boosting, under scikit-learn's names.

    The defaults were chosen like those of LogisticRegression.
    """

    learning_rate: float = Field(0.1, gt=0, le=1)
    max_iter: int = Field(100, ge=1, le=10_000)
    max_leaf_nodes: int = Field(7, ge=2, le=1024)
    max_depth: int | None = Field(None, ge=1, le=64)
    min_samples_leaf: int = Field(20, ge=1)
    l2_regularization: float = Field(10.0, ge=0)
    max_features: float = Field(1.0, gt=0, le=1)
    class_weight: ClassWeight = "none"


class CostSettings(_Group):
    """The costs of a decision as a user may set them; `Costs` explains them."""

    fee: float = Field(Costs.fee, ge=0)
    review: float = Field(Costs.review, gt=0)

    def as_costs(self) -> Costs:
        """Return the costs as the metrics take them."""
        return Costs(self.fee, self.review)


Model = TypeVar("Model", bound=_Group)
AlgorithmName = Literal["logistic-regression", "hist-gradient-boosting"]
Hyperparameters = LogisticRegression | HistGradientBoosting
ALGORITHMS: Mapping[str, type[Hyperparameters]] = {
    "logistic-regression": LogisticRegression,
    "hist-gradient-boosting": HistGradientBoosting,
}


class TrainingSettings(_Group):
    """Settings of one training run. The same settings and rows give the same model."""

    algorithm: AlgorithmName = "logistic-regression"
    hyperparameters: Hyperparameters = LogisticRegression()
    seed: int = Field(7, ge=0, lt=2**32)
    split: Literal["time", "stratified"] = "time"
    costs: CostSettings = CostSettings()
    resamples: int = Field(200, ge=20, le=10_000)


def training_settings(
    config: Path | None = None, assignments: Sequence[str] = (), **flags: Any
) -> TrainingSettings:
    """Return the settings of a training run.

    They are read from the file `config`. Then the hyperparameters of `--set name=value` replace
    those of the file, and flags that are not None replace its other settings.
    Raises SettingsError, which names the value that is unknown or out of range.
    """
    where = str(config) if config else "the command line"
    values = _read(config) if config else {}
    values.update(
        {
            name: value
            for name, value in flags.items()
            if value is not None and name not in ("fee", "review")
        }
    )
    costs = {name: flags[name] for name in ("fee", "review") if flags.get(name) is not None}
    algorithm = values.get("algorithm", "logistic-regression")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise SettingsError(
            f"{where}: the algorithm {algorithm!r} is unknown; known are {', '.join(ALGORITHMS)}"
        )
    chosen = {**_mapping(values, "hyperparameters", where), **_assigned(assignments)}
    values["hyperparameters"] = _validated(
        ALGORITHMS[algorithm], chosen, f"{algorithm}: hyperparameter"
    )
    values["costs"] = _validated(
        CostSettings, {**_mapping(values, "costs", where), **costs}, f"{where}: cost"
    )
    return _validated(TrainingSettings, values, f"{where}: setting")


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path}: the configuration cannot be read ({type(error).__name__}); "
            "give the path of a YAML file"
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise SettingsError(
            f"{path}: not valid YAML{f' at line {mark.line + 1}' if mark else ''}"
        ) from error
    if not isinstance(values, dict):
        raise SettingsError(
            f"{path}: expected a mapping with any of {', '.join(TrainingSettings.model_fields)}"
        )
    return values


def _mapping(values: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    part = values.get(name, {})
    if not isinstance(part, dict):
        raise SettingsError(f"{where}: {name} must be a mapping of names to values")
    return part


def _assigned(assignments: Sequence[str]) -> dict[str, Any]:
    values = {}
    for assignment in assignments:
        name, sign, text = assignment.partition("=")
        if not sign or not name.strip():
            raise SettingsError(
                f"--set {assignment}: write it as name=value, for example --set C=0.1"
            )
        try:
            values[name.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SettingsError(
                f"--set {name.strip()}: the value cannot be read; write a number or a word"
            ) from error
    return values


def _validated(model: type[Model], values: dict[str, Any], what: str) -> Model:
    """Return the model built from `values`.

    Raises SettingsError, for example "… hyperparameter 'depth' is unknown; known are …".
    """
    for name in values:
        if name not in model.model_fields:
            raise SettingsError(
                f"{what} {name!r} is unknown; known are {', '.join(model.model_fields)}"
            )
    try:
        return model.model_validate(values)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        raise SettingsError(f"{what} {fault['loc'][0]!r}: {fault['msg']}") from None
