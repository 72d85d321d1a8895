"""`python -m benchmarks.models FOLDER`: what all subjects serve, trained on the packaged sample:
the same rows, split and settings for everyone.

linear/, trees/   sealed bundles of the logistic regression and of the gradient boosting
plain.json        the logistic regression, calibration folded in, as numbers: who serves scikit-learn builds the same pipeline from them
rows.npz          x (n, features) to send, and each pipeline's own probabilities of them, against which every answer is held
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudops.canonical import sha256_bytes
from fraudops.model.manifest import MANIFEST, Manifest

ROOT = Path(__file__).parents[1]
ROWS = 2000
KINDS = {"linear": "logistic-regression", "trees": "hist-gradient-boosting"}


@dataclass(frozen=True)
class BenchmarkModels:
    """What `python -m benchmarks.models` left in a folder."""

    folder: Path
    names: tuple[str, ...]
    x: NDArray[np.float64]
    expected: dict[str, NDArray[np.float64]]

    def digest(self, kind: str) -> str:
        return sha256_bytes((self.folder / kind / MANIFEST).read_bytes())

    @property
    def plain(self) -> Path:
        return self.folder / "plain.json"


def train(folder: Path) -> BenchmarkModels:
    """In a process of its own: scikit-learn and pandas stay out of the one that measures."""
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.models", str(folder)],
        cwd=ROOT,
        check=True,
        timeout=300,
    )
    return open_models(folder)


def open_models(folder: Path) -> BenchmarkModels:
    manifest = msgspec.json.decode((folder / "linear" / MANIFEST).read_bytes(), type=Manifest)
    with np.load(folder / "rows.npz") as stored:
        return BenchmarkModels(
            folder,
            manifest.feature_schema.names,
            stored["x"],
            {kind: stored[kind] for kind in KINDS},
        )


def main(folder: Path) -> None:
    from fraudops import datasets
    from fraudops.model.pipeline_file import probabilities
    from fraudops.training.settings import training_settings
    from fraudops.training.trainer import Provenance, train, write_bundle

    dataset = datasets.load()
    split = datasets.split(dataset)
    x = dataset.x[np.linspace(0, len(dataset) - 1, ROWS).round().astype(np.intp)]
    expected = {}
    for kind, algorithm in KINDS.items():
        trained = train(split, training_settings(algorithm=algorithm, resamples=20), lambda _: None)
        (folder / kind).mkdir(parents=True)
        write_bundle(folder / kind, trained, Provenance("credit-fraud", dataset, "unknown"))
        expected[kind] = probabilities(trained.model, x)
    np.savez(folder / "rows.npz", x=x, linear=expected["linear"], trees=expected["trees"])
    write_plain(folder, split.train.x)


def write_plain(folder: Path, rows: NDArray[np.float64]) -> None:
    """StandardScaler and LogisticRegression whose probabilities are the calibrated ones:
    coefficients . row = weights . (row - mean) / scale.
    """
    fused = json.loads((folder / "linear" / "scorer.json").read_bytes())
    coefficients, mean, scale = np.array(fused["coefficients"]), rows.mean(axis=0), rows.std(axis=0)
    plain = {
        "mean": mean,
        "scale": scale,
        "weights": coefficients * scale,
        "intercept": fused["intercept"] + coefficients @ mean,
    }
    (folder / "plain.json").write_text(
        json.dumps({name: np.asarray(value).tolist() for name, value in plain.items()})
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
