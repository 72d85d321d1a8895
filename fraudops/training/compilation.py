"""Compile a calibrated scikit-learn pipeline to the scorer files of fraudops.model.scorer.

A linear pipeline becomes one dot product that includes scaling and calibration. Gradient boosting
becomes an ONNX TreeEnsemble (ai.onnx.ml 5) in float64, which this module writes node by node. The
usual converter writes float32: some values then fall on the wrong side of a split, and raw scores
differ by up to 0.08. In float64 they differ by 1e-14.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from fraudops.errors import RefusedError
from fraudops.model.scorer import ONNX_MODEL, SCORER, LinearParameters, OnnxParameters

ADVICE = (
    "use logistic-regression (alone or after a StandardScaler) or hist-gradient-boosting, "
    "with one sigmoid calibrator over a FrozenEstimator"
)
IR_VERSION = 10
OPSETS = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 5)]


def compile_pipeline(model: Any, folder: Path) -> str:
    """Write `scorer.json`, for trees also `scorer.onnx`, and return the scorer's kind.

    Raises RefusedError for a pipeline that does not compile.
    """
    inner, slope, intercept = _calibrated(model)
    steps = (
        [step for _, step in inner.steps if step not in (None, "passthrough")]
        if isinstance(inner, Pipeline)
        else [inner]
    )
    # Exact types: a subclass may compute something else than its base class.
    match [type(step) for step in steps]:
        case [tail] if tail is LogisticRegression:
            parameters: LinearParameters | OnnxParameters = _linear(
                None, steps[0], slope, intercept
            )
        case [head, tail] if head is StandardScaler and tail is LogisticRegression:
            parameters = _linear(steps[0], steps[1], slope, intercept)
        case [tail] if tail is HistGradientBoostingClassifier:
            trees, baseline = _trees(steps[0])
            (folder / ONNX_MODEL).write_bytes(trees.to_onnx(int(steps[0].n_features_in_)))
            parameters = OnnxParameters(slope=slope, intercept=slope * baseline + intercept)
        case kinds:
            names = ", ".join(kind.__name__ for kind in kinds)
            raise RefusedError(f"a pipeline of {names} does not compile to a scorer: {ADVICE}")
    _check_finite(parameters)
    (folder / SCORER).write_bytes(msgspec.json.encode(parameters))
    return "linear" if isinstance(parameters, LinearParameters) else "onnx"


def _calibrated(model: Any) -> tuple[Any, float, float]:
    """Return the fitted pipeline with the slope and intercept of its calibrator.

    probability = sigmoid(slope * decision + intercept). Raises RefusedError.
    """
    if (
        not isinstance(model, CalibratedClassifierCV)
        or model.method != "sigmoid"
        or len(model.calibrated_classifiers_) != 1
    ):
        raise RefusedError(f"the pipeline is not calibrated by exactly one sigmoid: {ADVICE}")
    (pair,) = model.calibrated_classifiers_
    if (
        not isinstance(pair.estimator, FrozenEstimator)
        or len(pair.calibrators) != 1
        or list(model.classes_) != [0, 1]
    ):
        raise RefusedError(
            f"the pipeline is not a frozen classifier of the classes 0 and 1: {ADVICE}"
        )
    (calibrator,) = pair.calibrators
    # scikit-learn computes 1 / (1 + exp(a * decision + b)), so both signs change.
    return pair.estimator.estimator, -float(calibrator.a_), -float(calibrator.b_)


def _linear(
    scaler: StandardScaler | None, model: LogisticRegression, slope: float, intercept: float
) -> LinearParameters:
    """Return slope * (w . (x - mean) / scale + b) + intercept as one dot product."""
    weights = np.asarray(model.coef_[0], dtype=np.float64)
    bias = float(model.intercept_[0])
    if scaler is not None:
        weights = weights / scaler.scale_ if scaler.with_std else weights
        bias -= float(weights @ scaler.mean_) if scaler.with_mean else 0.0
    return LinearParameters(
        coefficients=tuple((slope * weights).tolist()), intercept=slope * bias + intercept
    )


def _check_finite(parameters: LinearParameters | OnnxParameters) -> None:
    numbers = (
        parameters.coefficients if isinstance(parameters, LinearParameters) else (parameters.slope,)
    )
    if not all(map(math.isfinite, (*numbers, parameters.intercept))):
        raise RefusedError(
            "the model's coefficients are not finite numbers: it did not converge; "
            "scale the columns, or lower C or max_iter"
        )


@dataclass
class _Trees:
    """The lists of a TreeEnsemble.

    Inner nodes and leaves have separate numbers, and each count runs through all trees.
    """

    roots: list[int] = field(default_factory=list)
    features: list[int] = field(default_factory=list)
    splits: list[float] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    branches: dict[str, list[int]] = field(default_factory=lambda: {"true": [], "false": []})
    leaf_flags: dict[str, list[int]] = field(default_factory=lambda: {"true": [], "false": []})
    leaves: list[float] = field(default_factory=list)

    def add(self, nodes: Any) -> None:
        """Add a tree of scikit-learn, given as its array of nodes.

        A row continues left when its value <= num_threshold.
        """
        self.roots.append(len(self.features))
        is_leaf = nodes["is_leaf"].astype(bool)
        numbers = np.where(
            is_leaf,
            np.cumsum(is_leaf) - 1 + len(self.leaves),
            np.cumsum(~is_leaf) - 1 + len(self.features),
        )
        self.leaves.extend(nodes["value"][is_leaf].tolist())
        if is_leaf[0]:
            self._stump(int(numbers[0]))
        for node in nodes[~is_leaf]:
            self.features.append(int(node["feature_idx"]))
            self.splits.append(float(node["num_threshold"]))
            self.missing.append(int(node["missing_go_to_left"]))
            for name, child in (("true", node["left"]), ("false", node["right"])):
                self.branches[name].append(int(numbers[child]))
                self.leaf_flags[name].append(int(is_leaf[child]))

    def _stump(self, leaf: int) -> None:
        """Add a tree of a single leaf.

        The operator requires an inner node, so both branches of a node lead to that leaf.
        """
        self.features.append(0)
        self.splits.append(0.0)
        self.missing.append(0)
        for name in ("true", "false"):
            self.branches[name].append(leaf)
            self.leaf_flags[name].append(1)

    def to_onnx(self, features: int) -> bytes:
        node = helper.make_node(
            "TreeEnsemble",
            ["rows"],
            ["raw"],
            domain="ai.onnx.ml",
            n_targets=1,
            aggregate_function=1,
            post_transform=0,
            tree_roots=self.roots,
            nodes_featureids=self.features,
            nodes_splits=numpy_helper.from_array(np.array(self.splits, np.float64)),
            nodes_modes=numpy_helper.from_array(np.zeros(len(self.features), np.uint8)),
            nodes_missing_value_tracks_true=self.missing,
            nodes_truenodeids=self.branches["true"],
            nodes_trueleafs=self.leaf_flags["true"],
            nodes_falsenodeids=self.branches["false"],
            nodes_falseleafs=self.leaf_flags["false"],
            leaf_targetids=[0] * len(self.leaves),
            leaf_weights=numpy_helper.from_array(np.array(self.leaves, np.float64)),
        )
        rows = helper.make_tensor_value_info("rows", TensorProto.DOUBLE, [None, features])
        raw = helper.make_tensor_value_info("raw", TensorProto.DOUBLE, [None, 1])
        model = helper.make_model(
            helper.make_graph([node], "trees", [rows], [raw]),
            opset_imports=OPSETS,
            ir_version=IR_VERSION,
        )
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())


def _trees(model: HistGradientBoostingClassifier) -> tuple[_Trees, float]:
    """Return the trees and the baseline that scikit-learn adds to the sum of their leaves.

    Raises RefusedError for categorical features.
    """
    if model.is_categorical_ is not None and model.is_categorical_.any():
        raise RefusedError(
            "gradient boosting with categorical features does not compile to a scorer: "
            "encode them as numbers before training"
        )
    trees = _Trees()
    # Two classes have one predictor per iteration.
    for (predictor,) in model._predictors:
        trees.add(predictor.nodes)
    return trees, float(np.asarray(model._baseline_prediction).ravel()[0])
