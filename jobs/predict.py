"""`fraudops predict`: score one transaction, or a list of them, through the running service."""

import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from fraudops.errors import SettingsError
from jobs.options.data import data_option, schema_option
from jobs.options.service import open_client, url_option
from jobs.runner import json_option, output, print_json, run, state_option

if TYPE_CHECKING:
    from fraudops.client import PredictResponse
    from fraudops.state import State

Transaction = dict[str, Any]
HELP = """Score the transaction in FILE.json (- reads standard input).

Without a FILE, score a known fraud of the packaged sample.
"""


@click.command(help=HELP)
@click.argument("file", required=False, metavar="[FILE.json]")
@click.option(
    "--row",
    type=click.IntRange(min=0),
    metavar="N",
    help="Score row N (from 0) of the data's test part instead.",
)
@data_option
@schema_option
@url_option
@state_option
@json_option
def command(
    file: str | None,
    row: int | None,
    source: str | None,
    schema: Path | None,
    url: str | None,
    state: "State",
    as_json: bool,
) -> None:
    if file is not None and row is not None:
        raise SettingsError("give a FILE or --row, not both")
    truth: int | None = None
    transactions: Transaction | list[Transaction]
    if row is not None:
        transactions, truth = _held_out(row, source, schema)
    else:
        transactions = _read(file)
    with open_client(url, state) as client:
        if isinstance(transactions, list):
            _show_many(client.predict_batch(transactions), as_json)
        else:
            _show(client.predict(transactions), truth, as_json)


def _held_out(row: int, source: str | None, schema: Path | None) -> tuple[Transaction, int]:
    """Return a row of the test part and its label. Raises SettingsError if it has no such row."""
    from fraudops.datasets import load, split
    from fraudops.schema import load_schema

    test = split(load(source, load_schema(schema))).test
    if row >= len(test):
        raise SettingsError(
            f"--row {row}: the test part of {test.source} has rows 0 to {len(test) - 1}"
        )
    return dict(zip(test.schema.names, test.x[row].tolist(), strict=True)), int(test.y[row])


def _read(file: str | None) -> Transaction | list[Transaction]:
    """Return the JSON of the file. Raises SettingsError, which never quotes the content."""
    name = "standard input" if file == "-" else file or "transaction.json of the packaged sample"
    try:
        if file is None:
            sample = resources.files("fraudops.datasets").joinpath("sample/transaction.json")
            text = sample.read_bytes()
        else:
            text = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return msgspec.json.decode(text, type=Transaction | list[Transaction])
    except OSError as error:
        raise SettingsError(
            f"{name}: cannot be read ({error.strerror}); give a JSON file, or - for standard input"
        ) from error
    except msgspec.ValidationError:
        # `from None`: the chained error could quote the transaction.
        raise SettingsError(
            f'{name}: expected one transaction as {{"FEATURE": NUMBER, …}}, or a list of them'
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{name}: not valid JSON; write numbers as 1.5, and no NaN") from error


def _show(answer: "PredictResponse", truth: int | None, as_json: bool) -> None:
    if as_json:
        print_json(msgspec.structs.asdict(answer) | ({} if truth is None else {"label": truth}))
        return
    verdict = "[bold red]FRAUD[/]" if answer.prediction else "[bold green]genuine[/]"
    labelled = "" if truth is None else f"; the label is {'fraud' if truth else 'genuine'}"
    output.print(
        f"{verdict}  probability {answer.fraud_probability:.4f}, "
        f"threshold {answer.threshold:.4f}{labelled}"
    )
    output.print(f"model version {answer.model_version}, prediction_id {answer.prediction_id}")


def _show_many(answers: "list[PredictResponse]", as_json: bool) -> None:
    if as_json:
        print_json({"predictions": [msgspec.structs.asdict(answer) for answer in answers]})
        return
    from rich.table import Table

    from fraudops.terminal import print_table

    table = Table(
        "row", "decision", "probability", "threshold", "version", "prediction_id", box=None
    )
    for index, answer in enumerate(answers):
        table.add_row(
            str(index),
            "[bold red]FRAUD[/]" if answer.prediction else "genuine",
            f"{answer.fraud_probability:.4f}",
            f"{answer.threshold:.4f}",
            answer.model_version,
            answer.prediction_id,
        )
    print_table(output, table)


if __name__ == "__main__":
    run(command)
