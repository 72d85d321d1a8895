"""`python -m benchmarks.models FOLDER`: the models that all subjects serve.

They are trained on the packaged sample. All subjects get the same rows, split and settings.

linear/, trees/   sealed bundles of the logistic regression and of the gradient boosting
plain.json        the numbers of the logistic regression with its calibration; subjects that
                  serve scikit-learn build the same pipeline from them
rows.npz          the rows x (n, features) to send, and each pipeline's probabilities of them;
                  every answer is compared with these
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
    """The models and rows in a folder that `python -m benchmarks.models` wrote.

    `x` has the shape (rows, features); `expected` has the probabilities by kind of model.
    """

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
    """Train in another process: scikit-learn and pandas stay out of this one.

    The process that measures must stay small.
    """
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
    """Write a StandardScaler and a LogisticRegression with the calibrated probabilities.

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
