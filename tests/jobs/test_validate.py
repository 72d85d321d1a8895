"""`fraudops validate` on a real MLflow server with trained models: passes and refusals."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import skops.io
from sklearn.preprocessing import FunctionTransformer

from fraudops import datasets
from fraudops.canonical import sha256_bytes
from fraudops.datasets import Dataset
from fraudops.errors import RefusedError
from fraudops.model.manifest import (
    PIPELINE,
    REFERENCE_ROWS,
    TRAIN_ROWS,
)
from fraudops.model.scorer import SCORER, open_scorer
from fraudops.promotion.local import FileRecordStore
from fraudops.promotion.serving_record import ServingEntry, ServingRecord
from fraudops.registry import TAG_SCHEMA_FINGERPRINT, ModelVersion, Registry
from fraudops.state import State
from fraudops.validation import gates
from fraudops.validation.gates import GateSettings
from fraudops.validation.verdict import SCORES, ScoredVersion, recompare, shown, stored_scores
from tests.support.mlflow_runs import put, remove
from tests.support.signing import SIGNERS
from tests.support.trained import Trained, register, seal_again, train
from tests.support.validation import (
    CONSTANT_SCORER,
    bank_rows,
    exit_code,
    failed,
    new_model,
    report,
    scored,
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


@pytest.fixture(scope="module")
def weak(rows: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return a valid but clearly worse model: four of its five features are shuffled."""
    noise = np.random.default_rng(5)

    def blurred(x: Any) -> Any:
        return np.column_stack(
            [
                noise.permutation(column) if index != 1 else column
                for index, column in enumerate(x.T)
            ]
        )

    return train(rows, tmp_path_factory.mktemp("weak") / "bundle", features=blurred)


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


def serve(state: State, registry: Registry, version: str) -> ModelVersion:
    """Write the serving record as a promotion of this version leaves it."""
    promoted = registry.version(version)
    assert promoted.digest
    assert promoted.schema_fingerprint
    entry = ServingEntry(
        epoch=1,
        version=version,
        digest=promoted.digest,
        schema_fingerprint=promoted.schema_fingerprint,
        by="test",
        act="promote",
        at="2026-01-01T00:00:00Z",
    )
    state.root.mkdir(exist_ok=True)
    store = FileRecordStore(state.serving_record)
    store.compare_and_set(ServingRecord(current=entry), store.read()[1])
    return promoted


def test_a_good_version_passes_every_gate_and_names_the_next_command(
    registry: Registry, mlflow_url: str, good: Trained, state: State
) -> None:
    version = register(mlflow_url, registry, good)
    result = validate(state, version)
    assert result.exit_code == 0, result.output
    for step in range(1, 6):
        assert f"{step}/5 " in result.stdout
    assert result.stdout.rstrip().endswith(
        f"fraudops promote --version {version} --alias production --state {state.root}"
    )
    assert failed(registry, version) == []


def test_the_verdict_and_the_test_scores_are_stored_for_exactly_this_bundle(
    registry: Registry, mlflow_url: str, good: Trained, rows: Dataset, state: State
) -> None:
    version = register(mlflow_url, registry, good)
    printed = report(validate(state, version, "--json"))
    stored = registry.version(version)
    test = datasets.split(rows).test
    assert stored.verdict == printed["verdict"]
    assert (
        stored.verdict["digest"],
        stored.verdict["test_digest"],
        stored.verdict["compared_to"],
    ) == (good.digest, test.digest, None)
    assert {gate["name"] for gate in stored.verdict["gates"]} == {
        gates.BUNDLE,
        gates.ROC_AUC,
        gates.AVERAGE_PRECISION,
        gates.TEST_ROWS,
        gates.PARITY,
        gates.DECISION_MISMATCHES,
        gates.LATENCY,
        *gates.COMPARED.values(),
    }
    signed = signed_verdict(registry, stored)
    assert shown(signed) == stored.verdict
    assert (signed.model_name, signed.version) == (registry.model, version)
    assert (signed.schema_fingerprint, signed.sample) == (good.fingerprint, False)
    assert signed.signer == SIGNERS.verdict.public.id
    scores = stored_scores(registry, ScoredVersion(stored, signed))
    assert (scores.test_digest, scores.digest) == (test.digest, good.digest)
    assert np.array_equal(scores.y, test.y)
    assert np.array_equal(scores.probability, open_scorer(good.folder).score_many(test.x))
    assert printed["test_data"] == {
        "source": rows.source,
        "digest": test.digest,
        "rows": len(test),
        "frauds": test.frauds,
        "prevalence": None,
        "split": "time",
        "same_file_as_training": True,
    }


def test_json_prints_one_object_to_standard_output_and_the_steps_to_standard_error(
    registry: Registry,
    mlflow_url: str,
    weak: Trained,
    state: State,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Run the program itself: it prints the object even when it refuses the version."""
    version = register(mlflow_url, registry, weak)
    monkeypatch.setenv("FRAUDOPS_GATES__ROC_AUC", "0.9999")
    arguments = [
        sys.executable,
        "-m",
        "jobs.validate",
        "--version",
        version,
        "--state",
        str(state.root),
        "--json",
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 65, done.stderr
    printed = json.loads(done.stdout)
    assert (printed["passed"], printed["version"], printed["promotion"]) == (False, version, None)
    assert printed["next"].startswith("fraudops train")
    assert "5/5 comparison" in done.stderr
    assert "error:" in done.stderr


def test_an_unknown_version_exits_64_and_an_unavailable_registry_75(
    registry: Registry, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exit_code(validate(state, "1")) == 64
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert exit_code(validate(state, "1")) == 75


def test_an_altered_file_is_refused_and_named(
    registry: Registry, mlflow_url: str, good: Trained, state: State
) -> None:
    version = register(mlflow_url, registry, good)
    put(mlflow_url, registry.version(version).run_id, f"bundle/{SCORER}", CONSTANT_SCORER)
    result = validate(state, version)
    assert exit_code(result) == 65
    assert f"{SCORER} has been altered" in result.stdout
    assert failed(registry, version) == [gates.BUNDLE]
    assert registry.download(registry.version(version), SCORES) is None


def test_a_manifest_that_was_written_again_is_not_the_registered_one(
    registry: Registry, mlflow_url: str, copied: Trained, good: Trained, state: State
) -> None:
    version = register(
        mlflow_url, registry, replace(seal_again(copied, threshold=0.9), digest=good.digest)
    )
    assert exit_code(validate(state, version)) == 65
    assert failed(registry, version) == [gates.BUNDLE]


def test_a_file_that_the_manifest_does_not_name_is_not_taken(
    registry: Registry, mlflow_url: str, good: Trained, state: State
) -> None:
    version = register(mlflow_url, registry, good)
    put(mlflow_url, registry.version(version).run_id, "bundle/extra.py", b"")
    assert exit_code(validate(state, version)) == 0
    assert failed(registry, version) == []


def test_a_pipeline_with_a_foreign_type_is_never_opened(
    registry: Registry, mlflow_url: str, copied: Trained, state: State
) -> None:
    # The bundle is sealed again, so every digest is right: only the allow-list of types refuses it.
    skops.io.dump(FunctionTransformer(func=shutil.rmtree), copied.folder / PIPELINE)
    version = register(mlflow_url, registry, seal_again(copied))
    result = validate(state, version)
    assert exit_code(result) == 65
    assert "rmtree" in result.stdout
    assert failed(registry, version) == [gates.BUNDLE]


def test_a_tag_that_names_another_schema_is_refused(
    registry: Registry, mlflow_url: str, good: Trained, state: State
) -> None:
    # Promotion chooses between broadcast and rollout by this tag.
    version = register(mlflow_url, registry, good, **{TAG_SCHEMA_FINGERPRINT: "0" * 64})
    assert exit_code(validate(state, version)) == 65
    assert failed(registry, version) == [gates.BUNDLE]


def test_a_model_trained_on_its_test_rows_is_refused_however_good_it_looks(
    registry: Registry, mlflow_url: str, rows: Dataset, state: State, tmp_path: Path
) -> None:
    cheat = train(rows, tmp_path / "cheat", seen=lambda everything: everything)
    version = register(mlflow_url, registry, cheat)
    assert exit_code(validate(state, version)) == 65
    assert failed(registry, version) == [gates.TEST_ROWS]


def test_a_bundle_that_hides_its_training_rows_is_refused(
    registry: Registry, mlflow_url: str, copied: Trained, state: State
) -> None:
    np.save(copied.folder / TRAIN_ROWS, np.array([], dtype=np.uint64))
    version = register(mlflow_url, registry, seal_again(copied))
    assert exit_code(validate(state, version)) == 65
    assert failed(registry, version) == [gates.TEST_ROWS]


def test_a_model_of_shuffled_labels_is_refused(
    registry: Registry, mlflow_url: str, rows: Dataset, state: State, tmp_path: Path
) -> None:
    useless = train(rows, tmp_path / "useless", labels=np.random.default_rng(2).permutation)
    version = register(mlflow_url, registry, useless)
    assert exit_code(validate(state, version)) == 65
    assert failed(registry, version) == [gates.ROC_AUC, gates.AVERAGE_PRECISION]


def test_a_scorer_that_is_not_its_pipeline_is_refused_though_its_reference_rows_agree(
    registry: Registry, mlflow_url: str, copied: Trained, state: State
) -> None:
    # Scorer and reference scores are forged together and sealed again. Serving compares only these
    # two, so it would not notice.
    scorer = json.loads((copied.folder / SCORER).read_text())
    (copied.folder / SCORER).write_text(
        json.dumps(scorer | {"intercept": scorer["intercept"] + 0.5})
    )
    reference = np.load(copied.folder / REFERENCE_ROWS)
    reference[:, -1] = open_scorer(copied.folder).score_many(reference[:, :-1])
    np.save(copied.folder / REFERENCE_ROWS, reference)
    version = register(mlflow_url, registry, seal_again(copied))
    assert exit_code(validate(state, version)) == 65
    assert failed(registry, version) == [gates.PARITY, gates.DECISION_MISMATCHES]


def test_the_limits_come_from_the_environment(
    registry: Registry,
    mlflow_url: str,
    good: Trained,
    state: State,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = register(mlflow_url, registry, good)
    monkeypatch.setenv("FRAUDOPS_GATES__AVERAGE_PRECISION", "0.9999")
    assert exit_code(validate(state, version)) == 65
    assert failed(registry, version) == [gates.AVERAGE_PRECISION]


def test_another_file_is_used_and_reported_as_another(
    registry: Registry, mlflow_url: str, good: Trained, state: State, tmp_path: Path
) -> None:
    version = register(mlflow_url, registry, good)
    other = bank_rows(tmp_path, seed=4)
    printed = report(
        validate(state, version, "--data", other.source, "--prevalence", "0.01", "--json")
    )
    assert printed["test_data"]["same_file_as_training"] is False
    assert printed["test_data"]["prevalence"] == 0.01
    assert printed["verdict"]["test_digest"] == datasets.split(other).test.digest


def test_a_schema_or_a_file_that_does_not_fit_exits_64(
    registry: Registry, mlflow_url: str, copied: Trained, state: State, tmp_path: Path
) -> None:
    version = register(mlflow_url, registry, copied)
    other = tmp_path / "other.yaml"
    other.write_text(
        (Path(__file__).parents[1] / "data" / "bank.yaml").read_text().replace("velocity", "speed")
    )
    assert exit_code(validate(state, version, "--schema", str(other))) == 64
    assert exit_code(validate(state, version, "--data", str(tmp_path / "nothing.csv"))) == 64
    assert registry.version(version).verdict is None


def test_a_version_worse_than_the_one_in_the_serving_record_is_refused(
    registry: Registry,
    mlflow_url: str,
    good: Trained,
    weak: Trained,
    state: State,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FRAUDOPS_GATES__ROC_AUC", "0.5")
    monkeypatch.setenv("FRAUDOPS_GATES__AVERAGE_PRECISION", "0")
    serving, worse = register(mlflow_url, registry, good), register(mlflow_url, registry, weak)
    serve(state, registry, serving)
    assert exit_code(validate(state, worse)) == 65
    assert failed(registry, worse) == list(gates.COMPARED.values())
    verdict = registry.version(worse).verdict
    assert verdict is not None
    assert verdict["compared_to"] == {"version": serving, "digest": good.digest}
    serve(state, registry, worse)
    assert validate(state, serving).exit_code == 0


def test_a_version_in_production_that_the_registry_has_lost_is_compared_from_the_cache(
    registry: Registry, mlflow_url: str, good: Trained, weak: Trained, state: State
) -> None:
    serving, better = register(mlflow_url, registry, weak), register(mlflow_url, registry, good)
    serve(state, registry, serving)
    put(mlflow_url, registry.version(serving).run_id, f"bundle/{SCORER}", CONSTANT_SCORER)
    assert exit_code(validate(state, better)) == 65
    assert failed(registry, better) == list(gates.COMPARED.values())
    shutil.copytree(weak.folder, state.bundles / weak.digest)
    assert validate(state, better).exit_code == 0


def test_a_version_of_other_columns_is_not_compared_and_needs_a_rollout(
    registry: Registry, mlflow_url: str, good: Trained, state: State
) -> None:
    version = register(mlflow_url, registry, good)
    entry = ServingEntry(
        epoch=1,
        version="9",
        digest="9" * 64,
        schema_fingerprint="9" * 64,
        by="test",
        act="promote",
        at="2026-01-01T00:00:00Z",
    )
    FileRecordStore(state.serving_record).compare_and_set(ServingRecord(current=entry), b"")
    result = validate(state, version, "--json")
    printed = report(result)
    assert printed["passed"]
    assert "--strategy rollout" in printed["next"]
    assert [gate["detail"].split(":")[0] for gate in printed["verdict"]["gates"][-2:]] == [
        "not comparable"
    ] * 2
    assert printed["verdict"]["compared_to"] == {"version": "9", "digest": "9" * 64}


def test_the_comparison_is_repeated_from_stored_scores_alone(
    registry: Registry,
    mlflow_url: str,
    good: Trained,
    weak: Trained,
    state: State,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FRAUDOPS_GATES__ROC_AUC", "0.5")
    monkeypatch.setenv("FRAUDOPS_GATES__AVERAGE_PRECISION", "0")
    better, worse = (
        registry.version(register(mlflow_url, registry, trained)) for trained in (good, weak)
    )
    for version in (better, worse):
        assert validate(state, version.version).exit_code == 0
    good_scores, weak_scores = scored(registry, better), scored(registry, worse)

    def again(one: ScoredVersion, other: ScoredVersion) -> list[gates.GateResult]:
        return recompare(registry, one, other, GateSettings())

    assert [gate.passed for gate in again(weak_scores, good_scores)] == [False, False]
    assert [gate.passed for gate in again(good_scores, weak_scores)] == [True, True]
    assert [gate.value for gate in again(good_scores, good_scores)] == [None, None]
    # The registry is not trusted: tags that say "another schema" or "the same bundle" skip nothing.
    forged_tags = replace(better, schema_fingerprint="f" * 64, digest=worse.digest)
    one = ScoredVersion(forged_tags, good_scores.verdict)
    assert [gate.passed for gate in again(weak_scores, one)] == [False, False]
    # Nor may the scores be others than those that the verdict seals.
    forged = registry.download(worse, SCORES) or b""
    registry.upload(better, SCORES, forged)
    for one, other in ((weak_scores, good_scores), (good_scores, weak_scores)):
        with pytest.raises(RefusedError, match="not those that its signed verdict seals"):
            again(one, other)
    with pytest.raises(RefusedError, match="damaged or of another bundle"):
        again(weak_scores, sealing(good_scores, forged))
    registry.upload(better, SCORES, b"not an archive")
    with pytest.raises(RefusedError, match="cannot be read"):
        again(weak_scores, sealing(good_scores, b"not an archive"))
    remove(mlflow_url, better.run_id, SCORES)
    with pytest.raises(RefusedError, match="no stored test scores"):
        again(weak_scores, good_scores)


def sealing(scored: ScoredVersion, scores: bytes) -> ScoredVersion:
    """Return the version with a verdict that seals these scores."""
    verdict = msgspec.structs.replace(scored.verdict, scores_digest=sha256_bytes(scores))
    return ScoredVersion(scored.version, verdict)


def test_scores_of_other_test_rows_are_never_compared(
    registry: Registry, mlflow_url: str, good: Trained, weak: Trained, state: State, tmp_path: Path
) -> None:
    first, second = (
        registry.version(register(mlflow_url, registry, trained)) for trained in (good, weak)
    )
    validate(state, first.version)
    validate(state, second.version, "--data", bank_rows(tmp_path, seed=4).source)
    with pytest.raises(RefusedError, match=f"validate --version {first.version}` again"):
        recompare(registry, scored(registry, first), scored(registry, second), GateSettings())


def test_a_container_that_asks_the_pods_may_not_promote(
    registry: Registry, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAUDOPS_PRODUCTION_URL", "http://127.0.0.1:9")
    result = validate(state, "latest", "--auto-promote")
    assert exit_code(result) == 64
    assert "this container may not promote" in str(result.exception)


def test_a_promotion_that_cannot_be_made_leaves_the_verdict_and_is_reported(
    registry: Registry, mlflow_url: str, good: Trained, state: State
) -> None:
    """No service runs in this state folder, so `--auto-promote` finds no pod."""
    version = register(mlflow_url, registry, good)
    result = validate(state, version, "--auto-promote", "--json")
    assert exit_code(result) == 64
    printed = report(result)
    assert (printed["passed"], printed["promotion"]["outcome"]) == (True, "failed")
    assert failed(registry, version) == []
