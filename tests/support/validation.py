"""Versions of really trained models for tests of `fraudops validate`, and how to run it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result

from fraudops import datasets
from fraudops.datasets import Dataset
from fraudops.datasets.writing import write_frame
from fraudops.registry import ModelVersion, Registry
from fraudops.registry.verdicts import read_signed
from fraudops.schema import load_schema
from fraudops.signing.verdicts import Verdict, check_verdict
from fraudops.state import State
from fraudops.validation.verdict import ScoredVersion
from jobs.validate import command
from tests.support.signing import SIGNERS

BANK = load_schema(Path(__file__).parents[1] / "data" / "bank.yaml")
# A valid scorer with the same score for every row: any model is better.
CONSTANT_SCORER = b'{"kind":"linear","coefficients":[0,0,0,0,0],"intercept":0}'


def bank_rows(folder: Path, seed: int) -> Dataset:
    """Write a file with five columns of a bank; return it as `train --data` reads it."""
    path = folder / f"bank-{seed}.parquet"
    write_frame(datasets.generate(4000, seed, BANK, fraud_rate=0.05).dataset.frame, path)
    return datasets.load(path, BANK)


@contextmanager
def new_model(mlflow_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """Yield the registry of a new model, which the environment names to the command."""
    model = f"validate-{uuid4().hex[:8]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_url)
    monkeypatch.setenv("FRAUDOPS_MODEL_NAME", model)
    registry = Registry(mlflow_url, model)
    yield registry
    registry.close()


def state_with_keys(folder: Path) -> State:
    """Return a state folder with the keys that `fraudops up` makes."""
    state = State.at(folder)
    SIGNERS.write_keys(state)
    return state


def validate(state: State, version: str, *more: str) -> Result:
    return CliRunner().invoke(command, ["--version", version, "--state", str(state.root), *more])


def report(result: Result) -> dict[str, Any]:
    return dict(json.loads(result.stdout))


def exit_code(result: Result) -> int:
    return int(getattr(result.exception, "exit_code", result.exit_code))


def failed(registry: Registry, version: str) -> list[str]:
    """Return the names of the failed gates in the stored verdict."""
    verdict = registry.version(version).verdict
    assert verdict is not None
    names = [gate["name"] for gate in verdict["gates"] if not gate["passed"]]
    assert verdict["passed"] == (not names)
    return names


def signed_verdict(registry: Registry, version: ModelVersion) -> Verdict:
    """Return the signed verdict of the version, verified with the public keys of the tests."""
    signed = read_signed(registry, version)
    return check_verdict(signed, str(version.digest), SIGNERS.public)


def scored(registry: Registry, version: ModelVersion) -> ScoredVersion:
    return ScoredVersion(version, signed_verdict(registry, version))
