"""`python -m benchmarks.boundary`: what the limits of HTTP cost, and what they are worth.

The processor time of an answer is compared with that of the commit before the limits, in turns.
Then malformed bodies are sent to one worker, and clients hold connections, while others call.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import click
import msgspec

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
from benchmarks.hostile import (
    HELD,
    HeldCall,
    MalformedBody,
    held_connections,
    malformed_bodies,
)
from benchmarks.models import ROOT
from benchmarks.product import Product, product
from benchmarks.protocols import TRANSACTION
from benchmarks.results import Result, Table
from benchmarks.spread import Claim, Spread, short, spread
from benchmarks.subjects import BenchmarkSite, Running, Subject
from benchmarks.turns import Driven, Turn, rounds
from fraudops.api_keys import new_api_key
from tests.support.releases import unpack
from tests.support.tokens import AUDIENCE, ISSUER, jwks, signing_key

# The last commit without the limits.
BEFORE = "8432f90"
CONNECTIONS = 16
SLICE_SECONDS = 1.0
MOST_MORE_US = 2.0
MOST_TURN_MS, MOST_GROWTH_MIB = 50.0, 100.0


@click.command()
@click.option("--rounds", "number", default=10, show_default=True, help="Turns of every subject.")
@click.option(
    "--seconds", default=5.0, show_default=True, help="Seconds of load per subject and round."
)
@generator_option
@results_option
@quick_option
def command(
    number: int, seconds: float, generator: str | None, results: Path | None, quick: bool
) -> None:
    """Measure the cost of an answer before and after, and the service under hostile clients."""
    with site() as place:
        result = measure(place, BenchmarkPlan.of(number, seconds, generator, quick))
    conclude(result, results)


def measure(place: BenchmarkSite, plan: BenchmarkPlan) -> Result:
    """Measure everything. Needs the history of the repository."""
    result = results.begin(
        "boundary", "The boundary of HTTP", plan, connections=CONNECTIONS, before=BEFORE
    )
    chosen = subjects(place)
    turns = together(chosen, place, plan)
    row = TRANSACTION.body(place.models.names, place.models.x[:1].tolist())
    with one_worker(place) as service:
        bodies = malformed_bodies(service, row)
        held = held_connections(service, row)
    more, tokens = more_than("before", turns), more_than("unread", turns)["tokens"]
    titles = {subject.key: subject.title for subject in chosen}
    result.tables = [cost_table(titles, turns, more), body_table(bodies), held_table(held)]
    result.claims = claims(titles, more, tokens, bodies)
    result.notes = [
        "All subjects run at the same time. One at a time has load. Nothing is shipped.",
        "A difference is taken within a round. In the last column, the smallest and the largest of"
        " ten differences are left out.",
        "The turn of the loop is the longest call of /health minus the median of such calls without"
        " load. There is a call every 2 ms, on a kept connection. The growth is the highest PSS of"
        " the worker minus that before the first body.",
        f"While the last table was measured, {HELD} connections had sent headers and no body.",
    ]
    result.details = {"turns": turns, "malformed": bodies, "held": held}
    return result


def together(
    chosen: Sequence[Subject], place: BenchmarkSite, plan: BenchmarkPlan
) -> dict[str, list[Turn]]:
    """Run all subjects at the same time, load one after the other, and return their rounds.

    A turn takes one second: the speed of the machine changes within minutes. A round of a subject
    is the mean of its turns, which take `plan.seconds` together.
    """
    slices = max(1, round(plan.seconds / SLICE_SECONDS))
    with contextlib.ExitStack() as stack:
        driven = {
            subject.key: Driven(
                subject,
                stack.enter_context(subject.start(place)),
                place,
                plan.generator,
                CONNECTIONS,
            )
            for subject in chosen
        }
        turns, _ = rounds(
            chosen,
            plan.rounds * slices,
            lambda subject: driven[subject.key].load(SLICE_SECONDS),
            say,
        )
    return {
        key: [mean(taken[first : first + slices]) for first in range(0, len(taken), slices)]
        for key, taken in turns.items()
    }


def mean(turns: Sequence[Turn]) -> Turn:
    """Return the last turn, with the mean rate and processor time of an answer of all turns."""
    rates = [each.rate for each in turns]
    cost = fmean([each.processor_us for each in turns], weights=rates)
    return msgspec.structs.replace(turns[-1], rate=fmean(rates), processor_us=cost)


def subjects(place: BenchmarkSite) -> list[Subject]:
    """Return the service of the commit before, and the service now, without and with credentials.

    The subject `unread` gets the tokens of `tokens` and asks for no credential: even
    an unread token is the largest header of its request.
    """
    folder = place.fresh("clients")
    folder.mkdir()
    key, token = new_api_key(), signing_key("RS256", "benchmark")
    by_key = {"name": "bank", "sha256": hashlib.sha256(key.encode()).hexdigest()}
    (folder / "keys.json").write_text(json.dumps({"keys": [by_key | {"scopes": ["predict"]}]}))
    (folder / "jwks.json").write_bytes(jwks(token))
    keys = {
        "FRAUDOPS_CLIENT_AUTH__MODE": "required",
        "FRAUDOPS_CLIENT_AUTH__KEYS_FILE": str(folder / "keys.json"),
    }
    tokens = {
        "FRAUDOPS_CLIENT_AUTH__MODE": "required",
        "FRAUDOPS_CLIENT_AUTH__JWKS_FILE": str(folder / "jwks.json"),
        "FRAUDOPS_CLIENT_AUTH__JWT_ISSUER": ISSUER,
        "FRAUDOPS_CLIENT_AUTH__JWT_AUDIENCE": AUDIENCE,
    }
    bearer = {"Authorization": f"Bearer {token.token().decode()}"}
    return [
        Checkout(unpack(BEFORE, place.fresh("before"))).subject("before", f"commit {BEFORE}"),
        Checkout(ROOT).subject("after", "now"),
        Checkout(ROOT, keys, {"X-API-Key": key}).subject("keys", "now, API keys required"),
        Checkout(ROOT, {}, bearer).subject("unread", "now, JSON Web Tokens sent but not asked for"),
        Checkout(ROOT, tokens, bearer).subject("tokens", "now, JSON Web Tokens required"),
    ]


@dataclass(frozen=True)
class Checkout:
    """One worker of the service of a checkout, and the headers of its clients."""

    code: Path
    settings: Mapping[str, str] | None = None
    headers: Mapping[str, str] | None = None

    def subject(self, key: str, title: str) -> Subject:
        return Subject(key, title, TRANSACTION, 1, self._start, headers=self.headers or {})

    @contextlib.contextmanager
    def _start(self, place: BenchmarkSite) -> Iterator[Running]:
        with product(
            place.fresh("checkout"),
            place.models,
            "linear",
            1,
            self.settings or {},
            place.bodies(TRANSACTION),
            None,
            self.headers or {},
            self.code,
        ) as started:
            yield Running(f"{started.url}/predict", started.process.pid, started)


@contextlib.contextmanager
def one_worker(place: BenchmarkSite) -> Iterator[Product]:
    """The service with its default limits, and nothing shipped."""
    bodies = place.bodies(TRANSACTION)
    with product(place.fresh("worker"), place.models, "linear", 1, {}, bodies, None) as started:
        yield started


def more_than(base: str, turns: Mapping[str, list[Turn]]) -> dict[str, Spread]:
    """Return the µs of processor time that an answer takes more than `base`, round by round."""
    others = [taken.processor_us for taken in turns[base]]
    return {
        key: spread([one.processor_us - other for one, other in zip(taken, others, strict=True)])
        for key, taken in turns.items()
        if key != base
    }


def claims(
    titles: Mapping[str, str],
    more: Mapping[str, Spread],
    tokens: Spread,
    bodies: Sequence[MalformedBody],
) -> list[Claim]:
    """Return the bounds of processor time, of a turn of the loop, and of memory."""
    turns, growths = [each.longest_ms for each in bodies], [each.growth_mib for each in bodies]
    return [
        *(
            Claim(f"µs of CPU more an answer: {titles[key]}", more[key], MOST_MORE_US, "at most")
            for key in ("after", "keys")
        ),
        Claim("µs of CPU more an answer: tokens required, sent", tokens, MOST_MORE_US, "at most"),
        Claim("ms of the longest turn, any body", spread([max(turns)]), MOST_TURN_MS, "at most"),
        Claim("MiB of growth, any body", spread([max(growths)]), MOST_GROWTH_MIB, "at most"),
    ]


def cost_table(
    titles: Mapping[str, str], turns: Mapping[str, list[Turn]], more: Mapping[str, Spread]
) -> Table:
    rows = [
        (
            titles[key],
            str(spread([one.rate for one in taken])),
            str(spread([one.processor_us for one in taken])),
            str(more[key]) if key in more else "",
            inner(more[key]) if key in more else "",
        )
        for key, taken in turns.items()
    ]
    columns = ("answers per second", "CPU µs per answer", "more than before", "2nd to 9th value")
    return Table("The cost of an answer", ("subject", *columns), rows)


def inner(values: Spread) -> str:
    """Return the second and the last but one value, if there are ten."""
    ordered = sorted(values.values)
    return f"{short(ordered[1])} to {short(ordered[-2])}" if len(ordered) >= 10 else ""


def body_table(bodies: Sequence[MalformedBody]) -> Table:
    rows = [
        (
            each.kind,
            each.path,
            str(each.status),
            short(each.seconds),
            short(each.longest_ms),
            short(each.growth_mib),
        )
        for each in bodies
    ]
    columns = ("path", "answer", "seconds", "longest turn, ms", "growth, MiB")
    return Table("Malformed bodies of 16 MiB", ("kind", *columns), rows)


def held_table(held: Sequence[HeldCall]) -> Table:
    rows = [
        (each.path, str(len(each.seconds)), short(median(each.seconds)), short(max(each.seconds)))
        for each in held
    ]
    columns = ("call", "number", "median, seconds", "longest, seconds")
    return Table("Calls while other connections are held", columns, rows)


if __name__ == "__main__":
    command()
