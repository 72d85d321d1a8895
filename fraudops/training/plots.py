"""Plots of a model's test results as PNG.

They are the ROC curve, precision and recall, the calibration, and the confusion matrix. matplotlib
is used without a display and without pyplot's global state.
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fraudops.model.ranking import Curve, Floats, curve

INK, QUIET = "#1f4e79", "#9aa5b1"
CALIBRATION_BINS = 12


def draw(
    y: NDArray[Any], probability: Floats, weights: Floats, threshold: float, title: str
) -> dict[str, bytes]:
    """Return a PNG for each file name.

    All arrays are (n,). `weights` are those of fraudops.model.metrics.
    """
    ranks = curve(y, probability, weights)
    return {
        "roc_curve.png": _png(_roc, title, ranks),
        "precision_recall_curve.png": _png(_precision_recall, title, ranks),
        "calibration.png": _png(_calibration, title, y, probability, weights),
        "confusion_matrix.png": _png(
            _confusion, title, y, probability >= threshold, weights, threshold
        ),
    }


def _png(plot: Callable[..., None], title: str, *values: Any) -> bytes:
    figure = Figure(figsize=(6, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    plot(axes, *values)
    figure.suptitle(title, fontsize=9, color=QUIET)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def _roc(axes: Axes, ranks: Curve) -> None:
    rate, recall = np.append(0.0, ranks.false_positive_rate[0]), np.append(0.0, ranks.recall[0])
    axes.plot(rate, recall, color=INK, linewidth=1.6)
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle="--")
    axes.set(
        title=f"ROC curve, area {ranks.roc_auc()[0]:.4f}",
        xlabel="false positive rate",
        ylabel="recall",
        xlim=(0, 1),
        ylim=(0, 1.02),
    )


def _precision_recall(axes: Axes, ranks: Curve) -> None:
    axes.step(
        np.append(0.0, ranks.recall[0]),
        np.append(ranks.precision[0, 0], ranks.precision[0]),
        color=INK,
        linewidth=1.6,
        where="pre",
    )
    title = f"Precision and recall, average precision {ranks.average_precision()[0]:.4f}"
    axes.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))


def _calibration(axes: Axes, y: NDArray[Any], probability: Floats, weights: Floats) -> None:
    # Logarithmic axes, because nearly all transactions have a probability far below 0.01.
    clipped = np.clip(probability, 1e-6, 1.0)
    edges = np.geomspace(clipped.min(), 1.0, CALIBRATION_BINS + 1)
    bins = np.clip(np.searchsorted(edges, clipped, side="right") - 1, 0, CALIBRATION_BINS - 1)
    total, frauds, sums = (
        np.bincount(bins, values, CALIBRATION_BINS)
        for values in (weights, weights * (y == 1), weights * clipped)
    )
    shown = (total > 0) & (frauds > 0)
    lowest = min(edges[0], *(frauds[shown] / total[shown])) if shown.any() else edges[0]
    axes.plot([lowest, 1], [lowest, 1], color=QUIET, linewidth=0.8, linestyle="--")
    axes.plot(
        sums[shown] / total[shown],
        frauds[shown] / total[shown],
        color=INK,
        marker="o",
        linewidth=1.2,
    )
    axes.set(
        title="Calibration (bins without a fraud are not shown)",
        xlabel="mean predicted probability",
        ylabel="observed share of fraud",
    )
    axes.set(xscale="log", yscale="log")


def _confusion(
    axes: Axes, y: NDArray[Any], flagged: NDArray[np.bool_], weights: Floats, threshold: float
) -> None:
    cells = [
        [(y == label) & (flagged == decision) for decision in (False, True)] for label in (0, 1)
    ]
    counts = np.array([[int(cell.sum()) for cell in row] for row in cells])
    shares = (
        np.array([[float(weights[cell].sum()) for cell in row] for row in cells]) / weights.sum()
    )
    # vmax above 1 keeps the darkest blue light enough for black text.
    axes.imshow(counts / counts.sum(axis=1, keepdims=True), cmap="Blues", vmin=0, vmax=1.6)
    for row in (0, 1):
        for column in (0, 1):
            axes.text(
                column,
                row,
                f"{counts[row, column]:,} rows\n{shares[row, column]:.3%} at prevalence",
                ha="center",
                va="center",
            )
    axes.set_xticks([0, 1], ["passed", "flagged"])
    axes.set_yticks([0, 1], ["genuine", "fraud"])
    axes.set_title(f"Decisions at the threshold {threshold:g}")
