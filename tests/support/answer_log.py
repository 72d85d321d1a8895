"""What clients were answered, held against the table: by `fraudops audit verify`, and by what each
answer said.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from fraudops.state import State
from tests.support.commands import Caller
from tests.support.figures import Figures
from tests.support.waiting import eventually

COMPARED = """
SELECT count(*) FILTER (WHERE p.id IS NULL),
       count(*) FILTER (WHERE (p.transaction_id, p.fraud_probability, p.model_version) IS DISTINCT FROM (a.transaction_id, a.probability, a.version))
FROM answered a LEFT JOIN predictions p ON p.id = a.id
"""
TIMES = """
WITH sent AS (SELECT transaction_id, count(*) AS times FROM requested GROUP BY transaction_id),
     stored AS (SELECT transaction_id, count(*) AS rows FROM predictions GROUP BY transaction_id)
SELECT count(*) FILTER (WHERE rows > times), count(*) FILTER (WHERE rows > 1) FROM sent JOIN stored USING (transaction_id)
"""


@dataclass(frozen=True)
class Log:
    """What the clients of one load were answered, and were not; grows while they run."""

    path: Path

    def answers(self) -> list[dict[str, Any]]:
        return _lines(self.path)

    def refused(self) -> list[dict[str, Any]]:
        return _lines(self.path.with_suffix(".refused"))

    def broken(self) -> list[dict[str, Any]]:
        """Requests whose connection ended without an answer."""
        return [line for line in self.refused() if line["status"] == 0]

    def refused_by(self, words: str) -> None:
        """Waits for a request that was refused with these words."""

        def said() -> None:
            assert any(words in line["reason"] for line in self.refused())

        eventually(said)

    def p99(self, since: float, until: float) -> float:
        """Milliseconds, of the answers to what was sent between two moments of the monotonic clock."""
        values = sorted(answer["ms"] for answer in self.answers() if since <= answer["at"] < until)
        return float(values[int(len(values) * 0.99)])

    def grew_by(self, count: int) -> None:
        """Waits for so many more answers."""
        goal = len(self.answers()) + count

        def reached() -> None:
            assert len(self.answers()) >= goal

        eventually(reached)


def _lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


@dataclass(frozen=True)
class Comparison:
    """Answers that are not in the table, or stand there otherwise than they were given;
    transactions that stand there more often than they were sent, and those that were sent again
    and have a row for each time.
    """

    answers: int
    lost: int
    different: int
    doubled: int
    repeated: int


def compare(url: str, log: Log) -> Comparison:
    answers = [answer for answer in log.answers() if "transaction_id" in answer]
    requests = [*answers, *log.refused()]
    with psycopg.connect(url) as connection:
        connection.execute(
            "CREATE TEMP TABLE answered (id uuid, transaction_id text, probability float8, version text)"
        )
        connection.execute("CREATE TEMP TABLE requested (transaction_id text)")
        with connection.cursor().copy("COPY answered FROM STDIN") as copy:
            for answer in answers:
                copy.write_row(
                    [
                        answer[name]
                        for name in (
                            "prediction_id",
                            "transaction_id",
                            "fraud_probability",
                            "model_version",
                        )
                    ]
                )
        with connection.cursor().copy("COPY requested FROM STDIN") as copy:
            for request in requests:
                copy.write_row([request["transaction_id"]])
        compared, times = (
            connection.execute(COMPARED).fetchone(),
            connection.execute(TIMES).fetchone(),
        )
    assert compared
    assert times
    return Comparison(len(answers), *compared, *times)


class Verdict:
    """Says what became of the answers of a log, and notes it."""

    def __init__(self, state: State, url: str, figures: Figures, call: Caller) -> None:
        self._state, self._url, self._figures, self._call = state, url, figures, call

    def verified(self, log: Log) -> dict[str, Any]:
        """What `fraudops audit verify --answers` found; it must itself say whether it agrees."""
        told = self._call(
            "verify",
            "--answers",
            log.path,
            "--json",
            "--state",
            self._state.root,
            DATABASE_URL=self._url,
        )
        found: dict[str, Any] = json.loads(told.stdout)
        assert told.returncode == (0 if found["agrees"] else 65), told.stderr
        return found

    def nothing_lost(self, log: Log, fault: str) -> None:
        """Call it when all is shipped."""
        found, compared = self.verified(log), compare(self._url, log)
        lost, doubled = (
            found["log"]["lost"] + found["log"]["set_aside"] + compared.lost,
            found["duplicated"] + compared.doubled,
        )
        seen = f"{fault}: {found}, {compared}"
        assert (lost, doubled, compared.different, found["log"]["repeated"]) == (0, 0, 0, 0), seen
        assert found["log"]["in_table"] == found["log"]["lines"] > 0, seen
        assert compared.repeated > 0, seen
        refused = log.refused()
        broken = sum(line["status"] == 0 for line in refused)
        unanswered = (
            f"; refused {len(refused) - broken:,}, connection broken {broken:,}" if refused else ""
        )
        self._figures.note(
            fault,
            f"{found['log']['lines']:,} answered, {compared.repeated:,} transactions of them twice, lost 0, duplicated 0{unanswered}",
        )
