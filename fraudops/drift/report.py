"""The Evidently part of drift: PSI of every column by one fixed method, and the HTML report.

Evidently takes 3 s and 270 MB to import, so it is imported when there are rows to compare. Its
own choice of method changes with the number of rows and its own `psi` uses bins of equal width;
here every column is compared by fraudops.drift.psi.psi, registered as a method of Evidently, so that
report, row and verdict show one number.
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
    """One run of Evidently over the columns of `thresholds`, which both frames have as finite float64.

    Its snapshot keeps histograms, never rows: the widest that a report shows of a transaction is
    the smallest and largest value of a column.
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
        """Evidently's report with the verdict on top: theirs alone says of each column whether it
        exceeds, and nothing of the window before.
        """
        page = self._snapshot.get_html_str(as_iframe=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        page = page.replace("<body>", f"<body>{_summary(title, lines, self.columns)}", 1)
        write_atomically(path, page.encode())


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    """Evidently and litestar warn of their own deprecated calls; the thousands of objects that
    their import leaves cost the collector a quarter of its time.
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
        f"<tr><td>{html.escape(column.name)}</td><td>{column.psi:.3f}</td><td>{column.threshold:g}</td><td>{'exceeded' if column.exceeded else ''}</td></tr>"
        for column in sorted(columns, key=lambda column: -column.psi)
    )
    text = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    table = f"<table cellpadding=6><tr align=left><th>column</th><th>PSI</th><th>threshold</th><th></th></tr>{rows}</table>"
    return f'<section style="{STYLE}"><h1>{html.escape(title)}</h1>{text}<details><summary>All columns</summary>{table}</details></section>'


def keep_latest(folder: Path, count: int) -> None:
    """Deletes all but the newest reports of a folder: each has about 5 MB."""
    for path in sorted(folder.glob("drift-*.html"))[:-count]:
        path.unlink(missing_ok=True)
