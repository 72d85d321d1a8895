"""`fraudops data generate`: generate rows, or apply a drift to existing rows."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.options.data import drift_option, schema_option, strength_option
from jobs.runner import any_state_option, notices

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from fraudops.datasets import Dataset

DEFAULT_ROWS = 20_000


@click.command(name="generate")
@any_state_option
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The file to write; ends in .csv, .csv.gz or .parquet.",
)
@click.option(
    "--rows",
    type=click.IntRange(min=100),
    help=f"Number of rows. [default: {DEFAULT_ROWS}; with --data: all of them]",
)
@click.option("--seed", default=7, show_default=True, help="The same seed gives the same rows.")
@click.option(
    "--fraud-rate",
    default=0.0017,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="The share of frauds.",
)
@click.option(
    "--days",
    default=2.0,
    show_default=True,
    type=click.FloatRange(0, 3660, min_open=True),
    help="The period that the rows cover.",
)
@click.option(
    "--data",
    "source",
    metavar="FILE",
    help="Apply the drift to these rows instead of generated ones; `sample` is the packaged "
    "sample.",
)
@schema_option
@drift_option
@strength_option
@click.option(
    "--truth",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write the true pattern of each row, and whether the drift changed the row.",
)
def generate(
    out: Path,
    rows: int | None,
    seed: int,
    fraud_rate: float,
    days: float,
    source: str | None,
    schema: Path | None,
    drift: str | None,
    strength: float,
    truth: Path | None,
) -> None:
    """Generate rows for any schema, or apply a drift to existing rows."""
    from fraudops.datasets import overlay
    from fraudops.datasets.writing import check_suffix, write_frame

    # Checked before the rows are generated, which may take minutes.
    for path in (out, truth):
        if path is not None:
            check_suffix(path)
    dataset, pattern = (
        _generated(rows, seed, schema, fraud_rate, days)
        if source is None
        else _loaded(source, schema, rows, seed, drift)
    )
    affected = None
    if drift is not None:
        # click has checked the name.
        dataset, affected = overlay(dataset, drift, seed, strength)  # type: ignore[arg-type]
    write_frame(dataset.frame, out)
    if truth is not None:
        write_frame(_truth(pattern, affected), truth)
    changed = "" if affected is None else f", {int(affected.sum()):,} of them changed by the drift"
    notices.print(
        f"{out}: {len(dataset):,} rows, {dataset.frauds:,} frauds, {dataset.source}{changed}",
        markup=False,
    )


def _generated(
    rows: int | None, seed: int, schema: Path | None, fraud_rate: float, days: float
) -> "tuple[Dataset, NDArray[np.str_]]":
    """Return generated rows and the pattern of each row."""
    from fraudops.datasets import generate
    from fraudops.schema import load_schema

    generated = generate(rows or DEFAULT_ROWS, seed, load_schema(schema), fraud_rate, days)
    return generated.dataset, generated.pattern


def _loaded(
    source: str, schema: Path | None, rows: int | None, seed: int, drift: str | None
) -> "tuple[Dataset, NDArray[np.str_]]":
    """Return rows of a file and the pattern of each row. Raises SettingsError without a drift."""
    import numpy as np

    from fraudops.datasets import load
    from fraudops.datasets.traffic import spread_rows
    from fraudops.errors import SettingsError
    from fraudops.schema import load_schema

    if drift is None:
        raise SettingsError(
            "--data without --drift would only copy the rows: name a drift, or omit --data"
        )
    dataset = load(None if source == "sample" else source, load_schema(schema))
    dataset = dataset.take(spread_rows(len(dataset), rows, seed)) if rows else dataset
    return dataset, np.where(dataset.y == 1, "fraud", "genuine")


def _truth(pattern: "NDArray[np.str_]", affected: "NDArray[np.bool_] | None") -> "pd.DataFrame":
    import numpy as np
    import pandas as pd

    drifted = np.zeros(len(pattern), dtype=bool) if affected is None else affected
    return pd.DataFrame({"pattern": pattern, "drifted": drifted})
