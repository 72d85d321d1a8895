"""The table of `make mutants`, and the survivors that are accepted, each with its reason."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from benchmarks.results import RESULTS, Result, Table, machine, revision, write
from tests.mutants.operators import Mutant
from tests.mutants.plugins import ROOT
from tests.mutants.server import Verdict

ACCEPTED = ROOT / "tests" / "mutants" / "accepted.toml"
OPEN = ROOT / ".mutants" / "open.toml"
PLACE = ("module", "where", "line", "change")


class Row(NamedTuple):
    """The counts of one module, or of all; `asserted`, `imported` and `timed` are of the killed."""

    module: str
    mutants: int
    killed: int
    asserted: int
    imported: int
    timed: int
    accepted: int
    open: int

    @property
    def percent(self) -> float:
        return 100 * self.killed / self.mutants if self.mutants else 100.0

    def cells(self) -> tuple[str, ...]:
        return (*map(str, self), f"{self.percent:.1f}")


COLUMNS = (
    "module",
    "mutants",
    "killed",
    "by assertion",
    "at import",
    "by time",
    "accepted",
    "open",
    "percent",
)


@dataclass(frozen=True)
class Survivors:
    """The accepted survivors: reasons by the mutant's id. `stale` are entries without a mutant."""

    reasons: dict[str, str]
    stale: tuple[str, ...]
    listed: tuple[dict[str, str], ...]

    @classmethod
    def read(cls, mutants: Sequence[Mutant]) -> "Survivors":
        listed = tomllib.loads(ACCEPTED.read_text()).get("survivor", [])
        known = {_place(mutant): mutant.id for mutant in mutants}
        reasons, stale = dict[str, str](), list[str]()
        for entry in listed:
            place = tuple(entry.get(key, "") for key in PLACE)
            if not entry.get("reason") or place not in known:
                lacks = "no mutant is" if entry.get("reason") else "no reason is given for"
                stale.append(f"{ACCEPTED.name}: {lacks} {' | '.join(place)}")
            else:
                reasons[known[place]] = entry["reason"]
        return cls(reasons, tuple(stale), tuple(listed))

    def rows(self, mutants: Sequence[Mutant], verdicts: Mapping[str, Verdict]) -> list[Row]:
        """Return one row for each module, and the row of all."""
        modules = sorted({mutant.module for mutant in mutants})
        rows = [
            self._row(one, [m for m in mutants if m.module == one], verdicts) for one in modules
        ]
        return [*rows, self._row("all", mutants, verdicts)]

    def _row(self, name: str, mutants: Sequence[Mutant], verdicts: Mapping[str, Verdict]) -> Row:
        ends = [verdicts[mutant.id] for mutant in mutants]
        survived = [mutant for mutant in mutants if not verdicts[mutant.id].killed]
        accepted = sum(mutant.id in self.reasons for mutant in survived)
        return Row(
            name,
            len(mutants),
            len(mutants) - len(survived),
            sum(end.ending == "assertion" for end in ends),
            sum(end.ending == "import" for end in ends),
            sum(end.ending == "time" for end in ends),
            accepted,
            len(survived) - accepted,
        )

    def problems(
        self,
        mutants: Sequence[Mutant],
        verdicts: Mapping[str, Verdict],
        total: Row,
        least_percent: float,
    ) -> list[str]:
        """Return a sentence for each thing that fails the run, and write the open survivors."""
        survived = [mutant for mutant in mutants if not verdicts[mutant.id].killed]
        unlisted = [mutant for mutant in survived if mutant.id not in self.reasons]
        OPEN.write_text("\n".join(_entry(mutant) for mutant in unlisted))
        problems = list(self.stale)
        problems += [
            f"{mutant.id} is accepted, but {verdicts[mutant.id].test or 'a test'} kills it"
            for mutant in mutants
            if mutant.id in self.reasons and verdicts[mutant.id].killed
        ]
        if unlisted:
            problems.append(
                f"{len(unlisted)} survivors are open, see {OPEN.relative_to(ROOT)}: write a test, "
                f"or move the entry with a reason to {ACCEPTED.relative_to(ROOT)}"
            )
        if total.percent < least_percent:
            problems.append(f"{total.percent:.1f} % are killed, {least_percent:g} % must be")
        return problems


def _place(mutant: Mutant) -> tuple[str, ...]:
    return tuple(getattr(mutant, key) for key in PLACE)


def _entry(mutant: Mutant) -> str:
    # A JSON string is a TOML string.
    pairs = [*zip(PLACE, _place(mutant), strict=True), ("reason", "")]
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in pairs]
    return f"# {mutant.id}, line {mutant.number}\n[[survivor]]\n" + "".join(lines)


def print_table(rows: Sequence[Row]) -> None:
    lines = [COLUMNS, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, *cells in lines:
        figures = "  ".join(
            cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)
        )
        print(f"{name.ljust(widths[0])}  {figures}")


def write_figures(rows: Sequence[Row], survivors: Survivors) -> None:
    """Write the page of `make proof`."""
    commit, changed = revision()
    at = datetime.now(UTC).isoformat(timespec="seconds")
    title = "Mutants of the decisions"
    result = Result(
        name="mutants",
        title=title,
        at=at,
        commit=commit,
        changed=changed,
        quick=False,
        machine=machine(),
        settings={},
    )
    result.tables.append(Table("Killed", COLUMNS, [row.cells() for row in rows]))
    reasons = [
        (
            f"{entry['module']}, {entry['where']}: `{entry['line']}`",
            entry["change"],
            entry["reason"],
        )
        for entry in survivors.listed
    ]
    result.tables.append(Table("Accepted survivors", ("line", "change", "reason"), reasons))
    write(result, RESULTS)
