import subprocess
import sys
from pathlib import Path

import pytest

from fraudops.errors import SettingsError
from fraudops.training.settings import HistGradientBoosting, LogisticRegression, training_settings


def test_a_training_is_by_default_a_logistic_regression_split_by_time() -> None:
    settings = training_settings()
    assert (settings.algorithm, settings.split, settings.seed) == ("logistic-regression", "time", 7)
    assert settings.hyperparameters == LogisticRegression()
    assert (settings.costs.fee, settings.costs.review) == (15.0, 5.0)


def test_flags_win_over_the_file_and_set_over_its_hyperparameters(tmp_path: Path) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(
        "algorithm: hist-gradient-boosting\nseed: 3\nsplit: stratified\n"
        "costs: {fee: 20, review: 2}\n"
        "hyperparameters: {max_iter: 30, learning_rate: 5e-2}\n"
    )
    settings = training_settings(config, ["max_iter=40"], seed=4, review=3.0, split=None)
    assert settings.hyperparameters == HistGradientBoosting(max_iter=40, learning_rate=0.05)
    assert (settings.seed, settings.split, settings.costs.fee, settings.costs.review) == (
        4,
        "stratified",
        20.0,
        3.0,
    )


@pytest.mark.parametrize(
    ("text", "expected"), [("balanced", "balanced"), ("none", "none"), ("5", 5.0), ("2.5", 2.5)]
)
def test_a_class_weight_is_a_word_or_the_weight_of_a_fraud(text: str, expected: object) -> None:
    assert (
        training_settings(assignments=[f"class_weight={text}"]).hyperparameters.class_weight
        == expected
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"assignments": ["depth=3"]},
            "logistic-regression: hyperparameter 'depth' is unknown; known are C, class_weight",
        ),
        (
            {"assignments": ["C=0.1"], "algorithm": "hist-gradient-boosting"},
            "hyperparameter 'C' is unknown; known are learning_rate",
        ),
        ({"assignments": ["C=-1"]}, "hyperparameter 'C': Input should be greater than 0"),
        ({"assignments": ["C=.nan"]}, "hyperparameter 'C'"),
        ({"assignments": ["class_weight=heavy"]}, "hyperparameter 'class_weight'"),
        ({"assignments": ["C"]}, "write it as name=value"),
        ({"assignments": ["=1"]}, "write it as name=value"),
        ({"assignments": ["C=[1"]}, "--set C: the value cannot be read"),
        (
            {"algorithm": "oracle"},
            "algorithm 'oracle' is unknown; known are logistic-regression, hist-gradient-boosting",
        ),
        ({"seed": -1}, "setting 'seed'"),
        ({"review": 0.0}, "cost 'review'"),
    ],
)
def test_an_unknown_or_out_of_range_argument_is_refused_by_name(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingsError) as error:
        training_settings(**arguments)  # type: ignore[arg-type]
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("algorithm: [", "not valid YAML at line"),
        ("- a\n", "expected a mapping"),
        ("learning: 1\n", "setting 'learning' is unknown; known are algorithm"),
        ("hyperparameters: 3\n", "hyperparameters must be a mapping"),
        ("costs: {loss: 3}\n", "cost 'loss' is unknown; known are fee, review"),
        ("algorithm: {}\n", "is unknown; known are logistic-regression"),
    ],
)
def test_an_invalid_configuration_is_refused_with_its_name(
    tmp_path: Path, text: str, message: str
) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(text)
    with pytest.raises(SettingsError) as error:
        training_settings(config)
    assert str(config) in str(error.value)
    assert message in str(error.value)


def test_a_missing_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        training_settings(tmp_path / "absent.yaml")


def test_reading_the_settings_imports_no_scikit_learn() -> None:
    program = (
        "import sys, fraudops.training.settings, jobs.train;"
        " heavy = ('sklearn', 'pandas', 'mlflow', 'matplotlib', 'skops');"
        " print([name for name in heavy if name in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
