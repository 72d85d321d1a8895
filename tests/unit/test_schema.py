from pathlib import Path
from typing import Any

import pytest
import yaml

from fraudops.errors import SettingsError
from fraudops.schema import FeatureSchema, load_schema


def mapping(**changes: Any) -> dict[str, Any]:
    features = [
        {"name": "value", "minimum": 0, "maximum": 10},
        {"name": "risk", "minimum": -1.5, "maximum": 1.5},
    ]
    return {
        "name": "bank",
        "label": "fraud",
        "time": "at",
        "amount": "value",
        "features": features,
    } | changes


def feature(**changes: Any) -> dict[str, Any]:
    return {"name": "value", "minimum": 0, "maximum": 10} | changes


def test_packaged_schema_has_the_columns_of_the_official_file_in_their_order() -> None:
    schema = load_schema()
    assert schema.columns == ("Time", *(f"V{number}" for number in range(1, 29)), "Amount", "Class")
    assert (schema.time, schema.amount, schema.label) == ("Time", "Amount", "Class")
    assert "Time" not in schema.names


def test_schema_survives_the_way_through_yaml(tmp_path: Path) -> None:
    schema = FeatureSchema.from_mapping(mapping())
    path = tmp_path / "schema.yaml"
    path.write_text(yaml.safe_dump(schema.to_mapping()))
    assert load_schema(path) == schema
    assert load_schema(path).fingerprint == schema.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"label": "is_fraud"},
        {"features": [feature(), feature(name="risk", minimum=-1.5, maximum=1.6)]},
        {"features": [feature(name="risk", minimum=-1.5, maximum=1.5), feature()]},
    ],
)
def test_fingerprint_changes_with_every_name_range_and_order(change: dict[str, Any]) -> None:
    assert (
        FeatureSchema.from_mapping(mapping(**change)).fingerprint
        != FeatureSchema.from_mapping(mapping()).fingerprint
    )


def test_fingerprint_takes_whole_numbers_and_floats_as_one() -> None:
    integers, floats = (
        mapping(features=[feature(maximum=10)]),
        mapping(features=[feature(maximum=10.0)]),
    )
    assert (
        FeatureSchema.from_mapping(integers).fingerprint
        == FeatureSchema.from_mapping(floats).fingerprint
    )


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ([], "expected a mapping"),
        ({key: value for key, value in mapping().items() if key != "time"}, "'time' is missing"),
        (mapping(colour="red"), "'colour' is unknown"),
        (mapping(features=[]), "at least one entry"),
        (mapping(features="value"), "at least one entry"),
        (
            mapping(features=[{"name": "value"}]),
            "features[0]: expected exactly name, minimum and maximum",
        ),
        (mapping(features=[feature(minimum=10)]), "minimum must be below maximum"),
        (mapping(features=[feature(maximum=float("inf"))]), "finite"),
        (mapping(features=[feature(maximum="10")]), "finite"),
        (mapping(features=[feature(minimum=True)]), "finite"),
        (mapping(features=[feature(name="1st")]), "features[0].name"),
        (mapping(features=[feature(name="v alue")]), "features[0].name"),
        (mapping(features=[feature(), feature()]), "'value' is named more than once"),
        (mapping(label="value"), "'value' is named more than once"),
        (mapping(time="fraud"), "'fraud' is named more than once"),
        (mapping(amount="price"), "'price', which is not among the features"),
        (
            mapping(features=[feature(), feature(name="transaction_id")]),
            "'transaction_id' is reserved",
        ),
        (
            mapping(features=[feature(), feature(name="fraud_probability")]),
            "'fraud_probability' is reserved",
        ),
    ],
)
def test_wrong_schema_is_refused_with_the_key_at_fault(raw: Any, words: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        FeatureSchema.from_mapping(raw, "bank.yaml")
    assert str(refusal.value).startswith("bank.yaml")
    assert words in str(refusal.value)


def test_file_that_is_not_yaml_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text("name: bank\nlabel: [\n")
    with pytest.raises(SettingsError, match="not valid YAML at line"):
        load_schema(path)


@pytest.mark.parametrize("name", ["absent.yaml", "."])
def test_schema_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load_schema(tmp_path / name)
