"""Options that choose rows, for data, train, validate, drift, predict and simulate.

Light to import.
"""

from pathlib import Path

import click

data_option = click.option(
    "--data",
    "source",
    envvar="FRAUDOPS_DATA",
    default=None,
    metavar="FILE",
    help="CSV (also .gz) or Parquet. [env: FRAUDOPS_DATA; default: the packaged sample]",
)
schema_option = click.option(
    "--schema",
    envvar="FRAUDOPS_SCHEMA",
    default=None,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The schema.yaml that describes the columns. [env: FRAUDOPS_SCHEMA; default: the ULB "
    "schema]",
)
prevalence_option = click.option(
    "--prevalence",
    default=None,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="The natural share of fraud, if the data has another share. [default: the sample's own "
    "prevalence; other data counts as collected]",
)
drift_option = click.option(
    "--drift",
    default=None,
    type=click.Choice(["covariate", "new-fraud-pattern", "amount-inflation"]),
    help="A drift to apply to the rows.",
)
strength_option = click.option(
    "--strength",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 10),
    help="Strength of the drift. At 1, `covariate` exceeds a PSI of 0.2 by far on a third of the "
    "features.",
)
