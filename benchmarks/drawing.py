"""Pictures of results. Only this module imports matplotlib, not the code that is measured."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from benchmarks.spread import Spread, short

COLOURS = {"floor": "#9aa5b1", "ours": "#1769aa", "others": "#d9822b", "peers": "#b4473c"}
WIDTH = 9.0


def figure(rows: int = 1, columns: int = 1, height: float = 4.0) -> tuple[Figure, Sequence[Axes]]:
    """Create a figure without a screen, and without pyplot, which keeps every figure."""
    matplotlib.use("agg")
    drawn = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = drawn.subplots(rows, columns, squeeze=False)
    return drawn, list(axes.flat)


def bars(
    axes: Axes, titles: Sequence[str], values: Sequence[Spread], groups: Sequence[str], label: str
) -> None:
    """Draw medians on a logarithmic axis with their range as whiskers, the first on top."""
    medians = [value.median for value in values]
    whiskers = [
        [value.median - value.least for value in values],
        [value.most - value.median for value in values],
    ]
    places = range(len(titles))
    axes.barh(
        places,
        medians,
        xerr=whiskers,
        color=[COLOURS[group] for group in groups],
        error_kw={"elinewidth": 1, "capsize": 2},
    )
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            short(value.median),
            (value.most, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(list(places), titles, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(10 ** math.floor(math.log10(min(medians) / 1.5)), max(medians) * 3)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)


def lines(
    axes: Axes,
    x: Sequence[float],
    named: Mapping[str, Sequence[float]],
    x_label: str,
    y_label: str,
    log: str = "",
) -> None:
    """Draw one line per name; `log` names the logarithmic axes."""
    for name, y in named.items():
        axes.plot(x, y, marker="o", markersize=3, label=name)
    if "x" in log:
        axes.set_xscale("log")
    elif all(float(value).is_integer() for value in x):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if "y" in log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(named) > 1:
        axes.legend(fontsize=8)


def save(drawn: Figure, path: Path, footer: str) -> None:
    drawn.supxlabel(footer, fontsize=7, color="#555555")
    drawn.savefig(path, dpi=130)
