"""What `fraudops validate` signs, on a real MLflow server with trained models."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from fraudops.datasets import Dataset
from fraudops.model.manifest import MANIFEST, read_manifest
from fraudops.model.scorer import SCORER
from fraudops.registry import Registry
from fraudops.registry.verdicts import read_signed
from fraudops.state import State
from fraudops.validation import gates
from tests.support.mlflow_runs import put
from tests.support.trained import Trained, register, seal_again, train
from tests.support.validation import (
    CONSTANT_SCORER,
    bank_rows,
    exit_code,
    failed,
    new_model,
    signed_verdict,
    state_with_keys,
    validate,
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return bank_rows(tmp_path_factory.mktemp("rows"), seed=3)


@pytest.fixture(scope="module")
def good(rows: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(rows, tmp_path_factory.mktemp("good") / "bundle")


@pytest.fixture
def copied(good: Trained, tmp_path: Path) -> Trained:
    """Return a copy of the good bundle for a test to change."""
    shutil.copytree(good.folder, tmp_path / "copied")
    return replace(good, folder=tmp_path / "copied")


@pytest.fixture
def registry(mlflow_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    with new_model(mlflow_url, monkeypatch) as registry:
        yield registry


@pytest.fixture
def state(tmp_path: Path) -> State:
    return state_with_keys(tmp_path / "state")


def test_without_a_key_validate_ends_before_its_work(
    registry: Registry, mlflow_url: str, good: Trained, state: State
) -> None:
    version = register(mlflow_url, registry, good)
    state.verdict_key.unlink()
    result = validate(state, version)
    assert (exit_code(result), result.stdout) == (64, "")
    for words in (str(state.verdict_key), "`fraudops up`", "FRAUDOPS_SIGNING__VERDICT_KEY"):
        assert words in str(result.exception)
    assert registry.version(version).verdict is None


def test_a_bundle_whose_manifest_is_damaged_gets_a_verdict_that_is_only_shown(
    registry: Registry, mlflow_url: str, good: Trained, state: State
) -> None:
    version = register(mlflow_url, registry, good)
    found = registry.version(version)
    put(mlflow_url, found.run_id, f"bundle/{MANIFEST}", b"{}")
    assert exit_code(validate(state, version)) == 65
    assert failed(registry, version) == [gates.BUNDLE]
    assert read_signed(registry, found) is None


def test_a_damaged_file_gives_a_signed_verdict_that_failed(
    registry: Registry, mlflow_url: str, good: Trained, state: State
) -> None:
    version = register(mlflow_url, registry, good)
    found = registry.version(version)
    put(mlflow_url, found.run_id, f"bundle/{SCORER}", CONSTANT_SCORER)
    assert exit_code(validate(state, version)) == 65
    verdict = signed_verdict(registry, found)
    assert (verdict.passed, verdict.scores_digest) == (False, None)
    assert verdict.schema_fingerprint == good.fingerprint


def test_the_sample_mark_is_that_of_the_sealed_manifest_and_not_of_a_tag(
    registry: Registry, mlflow_url: str, copied: Trained, rows: Dataset, state: State
) -> None:
    manifest = read_manifest(copied.folder)
    info = msgspec.structs.replace(manifest.dataset, sample=True)
    sample = seal_again(copied, dataset=info)
    # `register` tags it as no sample.
    version = register(mlflow_url, registry, sample)
    validate(state, version, "--data", rows.source)
    assert signed_verdict(registry, registry.version(version)).sample
