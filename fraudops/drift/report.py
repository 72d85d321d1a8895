"""The HTML report of a drift run, made by Evidently.

The import of Evidently takes 3 s and 270 MB, so it happens only when there are rows to compare.
Evidently chooses its method by the number of rows, and its own `psi` has bins of equal width.
Therefore fraudops.drift.psi.psi is registered as a method of Evidently and used for every column:
report, database row and verdict show the same number.
"""

import contextlib
import gc
import html
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fraudops.drift.psi import ColumnDrift, psi
from fraudops.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd

METHOD = "fraudops_psi"
STYLE = "font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem"


class Comparison:
    """One run of Evidently over the columns of `thresholds`.

    Both frames must have these columns as finite float64. The snapshot keeps histograms and no
    rows: of single transactions a report shows only the smallest and largest value of a column.
    """

    def __init__(
        self, reference: "pd.DataFrame", current: "pd.DataFrame", thresholds: Mapping[str, float]
    ) -> None:
        with _importing():
            self._snapshot = _run(reference, current, thresholds)
        values = {
            metric["config"]["column"]: float(metric["value"])
            for metric in self._snapshot.dict()["metrics"]
        }
        self.columns = [
            ColumnDrift(name, values[name], threshold) for name, threshold in thresholds.items()
        ]

    def write_html(self, path: Path, title: str, lines: Sequence[str]) -> None:
        """Write Evidently's report, with the verdict above it. Raises OSError.

        Evidently's part does not know the window before, so it cannot show the verdict.
        """
        page = self._snapshot.get_html_str(as_iframe=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        page = page.replace("<body>", f"<body>{_summary(title, lines, self.columns)}", 1)
        write_atomically(path, page.encode())


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    """Silence warnings of Evidently and litestar about their own calls, and pause the collector.

    The collector would take a quarter of the time, because the import creates so many objects.
    """
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        gc.enable()


def _run(
    reference: "pd.DataFrame", current: "pd.DataFrame", thresholds: Mapping[str, float]
) -> Any:
    # Evidently reads this at import. Without it, it sends usage data over the network.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from evidently import DataDefinition, Dataset, Report
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType
    from evidently.metrics import ValueDrift

    method = StatTest(
        name=METHOD,
        display_name="PSI over the reference's deciles",
        allowed_feature_types=[ColumnType.Numerical],
        default_threshold=0.2,
    )
    register_stattest(method, _method)
    columns = list(thresholds)
    kinds = DataDefinition(numerical_columns=columns)
    report = Report(
        [ValueDrift(column=name, method=METHOD, threshold=thresholds[name]) for name in columns]
    )
    return report.run(
        Dataset.from_pandas(current[columns], kinds), Dataset.from_pandas(reference[columns], kinds)
    )


def _method(
    reference: "pd.Series[float]", current: "pd.Series[float]", _kind: object, threshold: float
) -> tuple[float, bool]:
    value = psi(np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64))
    return value, value > threshold


def _summary(title: str, lines: Sequence[str], columns: Sequence[ColumnDrift]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(column.name)}</td><td>{column.psi:.3f}</td>"
        f"<td>{column.threshold:g}</td><td>{'exceeded' if column.exceeded else ''}</td></tr>"
        for column in sorted(columns, key=lambda column: -column.psi)
    )
    text = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    header = "<th>column</th><th>PSI</th><th>threshold</th><th></th>"
    table = f"<table cellpadding=6><tr align=left>{header}</tr>{rows}</table>"
    details = f"<details><summary>All columns</summary>{table}</details>"
    return f'<section style="{STYLE}"><h1>{html.escape(title)}</h1>{text}{details}</section>'


def keep_latest(folder: Path, count: int) -> None:
    """Delete all but the newest `count` reports of a folder. Each has about 5 MB."""
    # The names begin with the time, so they sort by it.
    for path in sorted(folder.glob("drift-*.html"))[:-count]:
        path.unlink(missing_ok=True)
