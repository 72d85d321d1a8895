"""`python -m benchmarks.boundary`: what the limits of HTTP cost, and what they are worth.

The processor time of an answer is compared with that of the commit before the limits, in turns.
Then malformed bodies are sent to one worker, and clients hold connections, while others call.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import click

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
from benchmarks.hostile import Held, Malformed, held_connections, malformed_bodies
from benchmarks.models import ROOT
from benchmarks.product import Product, product
from benchmarks.protocols import TRANSACTION
from benchmarks.results import Result, Table
from benchmarks.spread import Claim, Spread, short, spread
from benchmarks.subjects import BenchmarkSite, Running, Subject
from benchmarks.turns import Turn, rounds, turn
from fraudops.api_keys import new_api_key
from tests.support.releases import unpack
from tests.support.tokens import AUDIENCE, ISSUER, jwks, signing_key

# The last commit without the limits.
BEFORE = "8432f90"
CONNECTIONS = 16
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
    turns, _ = rounds(
        subjects(place),
        plan.rounds,
        lambda subject: turn(subject, place, plan.generator, CONNECTIONS, plan.seconds),
        say,
    )
    with one_worker(place) as service:
        bodies = malformed_bodies(service, place, quick=plan.quick)
    with one_worker(place) as service:
        held = held_connections(service)
    differences = more_than_before(turns)
    result.tables = [cost_table(turns, differences), body_table(bodies), held_table(held)]
    result.claims = [*cost_claims(differences), *body_claims(bodies)]
    result.notes = [
        "Differences are taken within a round. The second and the ninth of ten values leave out"
        " the extremes.",
        "The longest turn is the longest time of a call of /health minus the median of such calls"
        " without load. The call is made every 2 ms on a kept connection.",
    ]
    result.details = {"turns": turns, "malformed": bodies, "held": held}
    return result


def subjects(place: BenchmarkSite) -> list[Subject]:
    """Return the service of the commit before, and the service now, without and with keys."""
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
            place.database,
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


def more_than_before(turns: Mapping[str, list[Turn]]) -> dict[str, Spread]:
    """Return the µs of processor time that an answer takes more than before, round by round."""
    before = [taken.processor_us for taken in turns["before"]]
    return {
        key: spread([one.processor_us - other for one, other in zip(taken, before, strict=True)])
        for key, taken in turns.items()
        if key != "before"
    }


def inner(values: Spread) -> Spread:
    """Return the spread without the smallest and the largest value, if there are ten."""
    ordered = sorted(values.values)
    return replace_ends(values, ordered[1], ordered[-2]) if len(ordered) >= 10 else values
