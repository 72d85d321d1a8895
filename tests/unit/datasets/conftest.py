"""A small, sound file of another bank; the tests damage copies of it."""

from pathlib import Path

import pytest

from fraudops.datasets import Dataset, generate, load
from fraudops.datasets.writing import write_frame
from fraudops.schema import FeatureSchema, load_schema

BANK = Path(__file__).parents[2] / "data" / "bank.yaml"


@pytest.fixture(scope="session")
def bank() -> FeatureSchema:
    return load_schema(BANK)


@pytest.fixture(scope="session")
def sample() -> Dataset:
    return load()


@pytest.fixture(scope="session")
def made(bank: FeatureSchema) -> Dataset:
    return generate(300, seed=5, schema=bank, fraud_rate=0.1).dataset


@pytest.fixture
def lines(made: Dataset, tmp_path: Path) -> list[str]:
    """The lines of a sound CSV, the header first, without line breaks."""
    path = tmp_path / "sound.csv"
    write_frame(made.frame, path)
    return path.read_text().splitlines()
