"""`python -m benchmarks.batch`: rows per second in bodies of 10,000, and overload.

The batch rate is compared with single requests. The overload sends more than can be shipped.
"""

from pathlib import Path

import click
import msgspec
import numpy as np

from benchmarks import results
from benchmarks.commands import (
    BenchmarkPlan,
    conclude,
    generator_option,
    quick_option,
    results_option,
    say,
    site,
)
from benchmarks.generators import Generator, Load
from benchmarks.processes import SubjectError, post, processor_seconds
from benchmarks.protocols import TRANSACTION, TRANSACTIONS
from benchmarks.results import Result, Table
from benchmarks.spread import Claim, ratio, short, spread
from benchmarks.subjects import TOLERANCE, BenchmarkSite, Subject, audit_defaults, ours
from benchmarks.turns import order

ROWS = 10_000
SINGLE_CONNECTIONS, BATCH_CONNECTIONS = 16, 2
SMALL_SPOOL = 64 << 20
SHIPPED_SECONDS, OVERLOAD_SECONDS = 600.0, 3.0


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """One turn: `rate` in rows per second, and `processor_us` per row.

    `audited` counts the rows in PostgreSQL in the end, if they are shipped. `shipped_rate` is the
    rate of shipping after the load.
    """

    rate: float
    processor_us: float
    answered: int
    audited: int | None = None
    shipped_rate: float | None = None


class Overload(msgspec.Struct, frozen=True, kw_only=True):
    """Load on a service with a small spool.

    `accepted_rate` is in rows per second; `answered` and `refused` count bodies. `refusal` is the
    answer to a refused body, `recovered` says that the service accepts bodies again.
    """

    accepted_rate: float
    answered: int
    refused: int
    refusal: str
    recovered: bool


@click.command()
@click.option("--rounds", "number", default=3, show_default=True, help="Number of rounds.")
@click.option(
    "--seconds", default=5.0, show_default=True, help="Seconds of load per subject and round."
)
@generator_option
@results_option
@quick_option
def command(
    number: int, seconds: float, generator: str | None, results: Path | None, quick: bool
) -> None:
    """Measure rows per second in large bodies."""
    with site() as place:
        result = measure(place, BenchmarkPlan.of(number, seconds, generator, quick))
    conclude(result, results)


def subjects() -> list[Subject]:
    return [
        ours("ours-1", "everything on", 1),
        ours("ours-alone-1", "nothing shipped during the load", 1, ships=False),
    ]


def measure(place: BenchmarkSite, plan: BenchmarkPlan) -> Result:
    chosen = subjects()
    result = results.begin("batch", f"Bodies of {ROWS:,} rows", plan, audit=audit_defaults())
    single: dict[str, list[Rows]] = {subject.key: [] for subject in chosen}
    batch: dict[str, list[Rows]] = {subject.key: [] for subject in chosen}
    for number_of_round in range(plan.rounds):
        for subject in order(chosen, number_of_round):
            for taken, rows in ((single, 1), (batch, ROWS)):
                taken[subject.key].append(turn(subject, place, plan, rows))
                rate = taken[subject.key][-1].rate
                say(
                    f"round {number_of_round + 1}: {subject.title}, {rows:,} rows per body:"
                    f" {rate:,.0f} rows per second"
                )
    overload = overloaded(place, plan.generator)
    result.tables = [_table(chosen, single, batch), _overload_table(overload)]
    text = f"rows per second in bodies of {ROWS:,} against /predict, everything on"
    result.claims = [
        Claim(
            text,
            ratio(
                [taken.rate for taken in batch["ours-1"]],
                [taken.rate for taken in single["ours-1"]],
            ),
            5.0,
            "at least",
        )
    ]
    result.notes = [
        "parts.md has the cost of a row's JSON, id and audit.",
        f"Above the rate that can be shipped, the service answers: {overload.refusal}",
    ]
    result.details = {"single": single, "batch": batch, "overload": overload}
    return result


def turn(subject: Subject, place: BenchmarkSite, plan: BenchmarkPlan, rows: int) -> Rows:
    """Load the subject once with bodies of `rows` rows.

    Raises SubjectError for a wrong answer, a refusal, and an answer without its row in
    PostgreSQL.
    """
    protocol, connections = (
        (TRANSACTION, SINGLE_CONNECTIONS) if rows == 1 else (TRANSACTIONS, BATCH_CONNECTIONS)
    )
    bodies = place.bodies(protocol, rows)
    with subject.start(place) as running:
        url = running.url if rows == 1 else f"{running.url}/batch"
        _check(place, url, bodies, rows)
        before = processor_seconds(running.pid)
        load = plan.generator.drive(url, bodies, connections, plan.seconds)
        used = processor_seconds(running.pid) - before
        if load.refused or load.broken or not load.answered:
            raise SubjectError(
                f"{load.answered} bodies answered, {load.refused} refused, {load.broken} broken"
            )
        taken = Rows(
            rate=load.rate * rows,
            processor_us=used / (load.answered * rows) * 1e6,
            answered=load.answered * rows,
        )
        product = running.product
        if product is None or product.database is None:
            return taken
        shipped_before = product.audited()
        seconds = product.drain(SHIPPED_SECONDS)
        audited = product.audited()
        # Beyond the counted answers there is one row of the readiness check and one body of the
        # answer check. The generator hangs up on requests in flight; their rows may be there too.
        if not 0 <= audited - 1 - rows - taken.answered <= connections * rows:
            raise SubjectError(
                f"PostgreSQL has {audited:,} rows of {taken.answered + rows + 1:,} answers"
            )
        return msgspec.structs.replace(
            taken, audited=audited, shipped_rate=(audited - shipped_before) / seconds
        )


def _check(place: BenchmarkSite, url: str, bodies: Path, rows: int) -> None:
    with bodies.open("rb") as file:
        status, answer = post(url, file.readline().rstrip(b"\n"), 60.0)
    expected = place.models.expected["linear"]
    protocol = TRANSACTION if rows == 1 else TRANSACTIONS
    if (
        status != 200
        or protocol.difference(answer, expected[np.arange(rows) % len(expected)]) > TOLERANCE
    ):
        raise SubjectError(f"{url} answers {status} {answer[:300]!r}")


def overloaded(place: BenchmarkSite, driver: Generator) -> Overload:
    """Send more than can be shipped to a service with a small spool.

    The service must refuse, lose nothing, and accept again once the spool has room.
    """
    bodies = place.bodies(TRANSACTIONS, ROWS)
    subject = ours(
        "ours-small-1", "a small spool", 1, {"FRAUDOPS_AUDIT__SPOOL_MAX_BYTES": str(SMALL_SPOOL)}
    )
    with subject.start(place) as running:
        url = f"{running.url}/batch"
        load = _until_refused(driver, url, bodies)
        body = bodies.read_bytes().partition(b"\n")[0]
        refusal = _refusal(url, body)
        if running.product is None:
            raise SubjectError("only the product can be overloaded")
        running.product.drain(SHIPPED_SECONDS)
        recovered = post(url, body, 60.0)[0] == 200
        return Overload(
            accepted_rate=load.rate * ROWS,
            answered=load.answered,
            refused=load.refused,
            refusal=refusal,
            recovered=recovered,
        )


def _refusal(url: str, body: bytes) -> str:
    """Return the answer to a refused body.

    The shipper may have made room since the load; more bodies then fill the spool again.
    """
    for _ in range(SMALL_SPOOL // len(body) + 10):
        status, answer = post(url, body, 60.0)
        if status == 503:
            return f"{status} {answer.decode()}"
        if status != 200:
            raise SubjectError(f"{url} answers {status} {answer[:300]!r}")
    raise SubjectError("the service refused nothing to a single client after the load")


def _until_refused(driver: Generator, url: str, bodies: Path) -> Load:
    for _ in range(5):
        load = driver.drive(url, bodies, 2 * BATCH_CONNECTIONS, OVERLOAD_SECONDS)
        if load.refused:
            return load
    raise SubjectError("the service refused nothing: the shipper keeps up with the load generator")


def _table(
    chosen: list[Subject], single: dict[str, list[Rows]], batch: dict[str, list[Rows]]
) -> Table:
    rows = []
    for subject in chosen:
        for name, taken in (("1", single[subject.key]), (f"{ROWS:,}", batch[subject.key])):
            shipped = [one.shipped_rate for one in taken if one.shipped_rate]
            cost = spread([one.processor_us for one in taken]).median
            rows.append(
                (
                    subject.title,
                    name,
                    str(spread([one.rate for one in taken])),
                    short(cost),
                    str(spread(shipped)) if shipped else "",
                )
            )
    columns = (
        "subject",
        "rows per body",
        "rows per second",
        "CPU µs per row",
        "rows per second shipped afterwards",
    )
    return Table("Rows per second, one worker", columns, rows)


def _overload_table(overload: Overload) -> Table:
    rows = [
        (
            f"{overload.accepted_rate:,.0f}",
            str(overload.answered),
            str(overload.refused),
            "yes" if overload.recovered else "**no**",
        )
    ]
    return Table(
        f"Above the rate that can be shipped, with a spool of {SMALL_SPOOL >> 20} MiB",
        ("rows per second accepted", "bodies answered", "bodies refused", "serves again"),
        rows,
    )


if __name__ == "__main__":
    command()
