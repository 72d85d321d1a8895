"""`fraudops score` with a running product: equal scores, and versions of the registry."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet

from tests.support.commands import Caller
from tests.support.http_client import HTTP
from tests.support.platform import Platform
from tests.support.scored import Scene


def test_scores_are_those_of_the_service(
    serving: Platform, scene: Scene, score: Caller, tmp_path: Path
) -> None:
    result = score(
        scene.parquet(tmp_path / "in.parquet", 500),
        "--out",
        tmp_path / "out.parquet",
        "--state",
        serving.state.root,
    )
    assert result.returncode == 0, result.stderr
    rows = [
        dict(zip(scene.data.schema.names, row, strict=True)) for row in scene.data.x[:500].tolist()
    ]
    answers = (
        HTTP.post(f"{serving.inference_url}/predict/batch", json={"transactions": rows})
        .raise_for_status()
        .json()["predictions"]
    )
    scored = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert np.allclose(
        [row["fraud_probability"] for row in scored],
        [answer["fraud_probability"] for answer in answers],
        rtol=0,
        atol=1e-12,
    )
    for name in ("prediction", "model_version", "threshold"):
        assert [row[name] for row in scored] == [answer[name] for answer in answers]
    assert 0 < sum(row["prediction"] for row in scored) < 500


def test_a_version_that_does_not_serve_is_fetched_from_the_registry(
    serving: Platform, scene: Scene, score: Caller, tmp_path: Path
) -> None:
    file = scene.csv(tmp_path / "in.csv", 50)
    arguments = (file, "--version", "1", "--json", "--state", tmp_path / "empty")
    # An empty state folder has no keys, so they are named too.
    places = {
        "MLFLOW_TRACKING_URI": serving.mlflow_url,
        "FRAUDOPS_SIGNING__PUBLIC_KEYS": str(serving.state.public_keys),
    }
    result = score(*arguments, **places)
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["out"], summary["version"], summary["scored"]) == (
        str(tmp_path / "in.scores.csv"),
        "1",
        50,
    )
    unknown = score(
        file,
        "--version",
        "999",
        "--out",
        tmp_path / "x.csv",
        "--state",
        tmp_path / "empty",
        **places,
    )
    assert unknown.returncode == 64
    assert "999" in unknown.stderr
