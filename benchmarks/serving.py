"""`python -m benchmarks.serving`: answers per second of the product and of alternatives.

The product, the bare web server and other model servers take turns on this machine.
"""

from collections.abc import Collection
from pathlib import Path

import click
import msgspec

from benchmarks import drawing, peers, results
from benchmarks.commands import (
    BenchmarkPlan,
    conclude,
    generator_option,
    quick_option,
    results_option,
    say,
    site,
)
from benchmarks.results import Result, Table
from benchmarks.spread import Claim, Spread, ratio, short, spread
from benchmarks.subjects import BenchmarkSite, Subject, audit_defaults, peer, standard
from benchmarks.turns import Missing, Turn, rounds, turn

CONNECTIONS = 16
QUICK = ("floor-1", "ours-1", "ours-2", "trees-1", "tutorial-1")
# The project's claims: subject, baseline, bound, text.
CLAIMS = (
    ("ours-1", "floor-1", 0.5, "everything on, against the bare ASGI floor, one worker each"),
    ("ours-2", "ours-1", 1.3, "two workers against one"),
    ("ours-1", "tutorial-1", 10.0, "against a tutorial's FastAPI"),
    ("ours-1", "kserve-1", 10.0, "against the KServe SDK"),
    ("ours-1", "mlserver-1", 20.0, "against MLServer"),
    ("ours-1", "bentoml-1", 25.0, "against BentoML"),
    ("ours-1", "mlflow-1", 80.0, "against mlflow models serve"),
)
COST_CLAIMS = (
    ("trees-1", "ours-1", 1.3, "cost of a request with gradient boosting against the linear model"),
)
Turns = dict[str, list[Turn]]


@click.command()
@click.option(
    "--rounds",
    "number",
    default=5,
    show_default=True,
    help="Turns of every subject.",
)
@click.option(
    "--seconds", default=6.0, show_default=True, help="Seconds of load per subject and round."
)
@click.option("--connections", default=CONNECTIONS, show_default=True, help="Connections.")
@click.option(
    "--peers",
    "with_peers",
    is_flag=True,
    help="Also measure other model servers. The first run installs them from PyPI.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="KEY",
    help="Measure only this subject, such as ours-1. Repeat it for more.",
)
@generator_option
@results_option
@quick_option
def command(
    number: int,
    seconds: float,
    connections: int,
    with_peers: bool,
    only: tuple[str, ...],
    generator: str | None,
    results: Path | None,
    quick: bool,
) -> None:
    """Measure answers per second, in turns."""
    plan = BenchmarkPlan.of(number, seconds, generator, quick)
    with site() as place:
        result = measure(
            place,
            plan,
            subjects(with_peers, only or (QUICK if quick and not with_peers else ())),
            connections,
        )
    conclude(result, results, draw)


def subjects(with_peers: bool, only: Collection[str] = ()) -> list[Subject]:
    """Return all subjects, or those with these keys."""
    chosen = [*standard(), *(peer(known, 1) for known in peers.PEERS if with_peers)]
    return [subject for subject in chosen if not only or subject.key in only]


def measure(
    place: BenchmarkSite, plan: BenchmarkPlan, chosen: list[Subject], connections: int = CONNECTIONS
) -> Result:
    result = results.begin(
        "serving", "Answers per second", plan, connections=connections, audit=audit_defaults()
    )
    turns, missing = rounds(
        chosen,
        plan.rounds,
        lambda subject: turn(subject, place, plan.generator, connections, plan.seconds),
        say,
    )
    shown = {subject.key: subject for subject in chosen if subject.key in turns}
    result.tables = [_table(shown, turns)]
    result.claims = claims(turns)
    result.notes = _notes(
        plan.generator.note, turns, missing, {subject.key: subject for subject in chosen}
    )
    result.details = {
        "subjects": {
            key: {"title": subject.title, "group": subject.group, "turns": turns[key]}
            for key, subject in shown.items()
        }
    }
    return result


def claims(turns: Turns) -> list[Claim]:
    """Return the claims whose two subjects were measured."""
    rates = {key: [measured.rate for measured in taken] for key, taken in turns.items()}
    costs = {key: [measured.processor_us for measured in taken] for key, taken in turns.items()}
    made = [
        Claim(text, ratio(rates[one], rates[other]), bound, "at least")
        for one, other, bound, text in CLAIMS
        if {one, other} <= turns.keys()
    ]
    made += [
        Claim(text, ratio(costs[one], costs[other]), bound, "at most")
        for one, other, bound, text in COST_CLAIMS
        if {one, other} <= turns.keys()
    ]
    return made


def _table(subjects: dict[str, Subject], turns: Turns) -> Table:
    rows = []
    for key, subject in subjects.items():
        floor = turns.get(f"floor-{subject.workers}")
        of_floor = (
            str(ratio([taken.rate for taken in turns[key]], [taken.rate for taken in floor]))
            if floor
            else ""
        )
        cost, tail = (
            spread([getattr(taken, name) for taken in turns[key]])
            for name in ("processor_us", "p99_ms")
        )
        waits = [
            taken.shipping_seconds for taken in turns[key] if taken.shipping_seconds is not None
        ]
        rows.append(
            (
                subject.title,
                str(_rates(turns[key])),
                of_floor,
                short(cost.median),
                short(tail.median),
                short(spread(waits).median) if waits else "",
            )
        )
    columns = (
        *(
            "subject",
            "answers per second",
            "share of the floor with as many workers",
            "CPU µs per answer",
            "p99 ms, closed loop",
        ),
        "seconds after the load until PostgreSQL had all answers",
    )
    return Table("Answers per second", columns, rows)


def _rates(turns: list[Turn]) -> Spread:
    return spread([taken.rate for taken in turns])


def _notes(
    driver: str, turns: Turns, missing: list[Missing], subjects: dict[str, Subject]
) -> list[str]:
    everything = [taken for several in turns.values() for taken in several]
    audited = [taken for taken in everything if taken.audited is not None]
    notes = [
        f"Load: {driver}, kept-alive connections, no pipelining, varied bodies. Subjects take"
        " turns; figures are medians with their range.",
        f"{sum(taken.checked for taken in everything):,} answers were compared with the"
        " scikit-learn pipeline; the largest difference was"
        f" {max(taken.difference for taken in everything):.1g}.",
    ]
    if audited:
        notes.append(
            f"PostgreSQL has all {sum(taken.answered for taken in audited):,} answers of the"
            " subjects that ship. Every turn was counted."
        )
    return notes + [f"Left out: {subjects[lost.key].title}: {lost.reason}" for lost in missing]


def draw(result: Result, path: Path) -> None:
    subjects = msgspec.to_builtins(result.details)["subjects"]
    ordered = sorted(
        subjects.values(),
        key=lambda subject: -spread([taken["rate"] for taken in subject["turns"]]).median,
    )
    drawn, (axes,) = drawing.figure(height=0.9 + 0.34 * len(ordered))
    drawing.bars(
        axes,
        [subject["title"] for subject in ordered],
        [spread([taken["rate"] for taken in subject["turns"]]) for subject in ordered],
        [subject["group"] for subject in ordered],
        "answers per second (logarithmic)",
    )
    drawing.save(
        drawn,
        path,
        f"{result.machine.cores} cores, {result.settings['connections']} connections,"
        f" commit {result.commit[:12]}, {result.at[:10]}",
    )


if __name__ == "__main__":
    command()
