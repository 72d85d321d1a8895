"""The log of a load's answers, compared with the audit table.

Two comparisons run: `fraudops audit verify`, and one by the content of each answer.
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
       count(*) FILTER (
           WHERE (p.transaction_id, p.fraud_probability, p.model_version)
           IS DISTINCT FROM (a.transaction_id, a.probability, a.version)
       )
FROM answered a LEFT JOIN predictions p ON p.id = a.id
"""
TIMES = """
WITH sent AS (SELECT transaction_id, count(*) AS times FROM requested GROUP BY transaction_id),
     stored AS (SELECT transaction_id, count(*) AS rows FROM predictions GROUP BY transaction_id)
SELECT count(*) FILTER (WHERE rows > times), count(*) FILTER (WHERE rows > 1)
FROM sent JOIN stored USING (transaction_id)
"""


@dataclass(frozen=True)
class Log:
    """The answers and refusals that one load's clients got. It grows while they run."""

    path: Path

    def answers(self) -> list[dict[str, Any]]:
        return _lines(self.path)

    def refused(self) -> list[dict[str, Any]]:
        return _lines(self.path.with_suffix(".refused"))

    def broken(self) -> list[dict[str, Any]]:
        """Return the requests whose connection ended without an answer."""
        return [line for line in self.refused() if line["status"] == 0]

    def refused_by(self, words: str) -> None:
        """Wait for a refusal whose reason holds `words`."""

        def logged() -> None:
            assert any(words in line["reason"] for line in self.refused())

        eventually(logged)

    def p99(self, since: float, until: float) -> float:
        """Return the p99 in milliseconds of the answers to requests sent in an interval.

        `since` and `until` are moments of the monotonic clock.
        """
        values = sorted(answer["ms"] for answer in self.answers() if since <= answer["at"] < until)
        return float(values[int(len(values) * 0.99)])

    def grew_by(self, count: int) -> None:
        """Wait for `count` more answers."""
        goal = len(self.answers()) + count

        def reached() -> None:
            assert len(self.answers()) >= goal

        eventually(reached)


def _lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text() if path.exists() else ""
    # The clients still write: a last line without its line break is incomplete.
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


@dataclass(frozen=True)
class AnswerComparison:
    """How the answers of a log differ from the rows of the audit table.

    `answers` counts the answers, `lost` those without a row, and `different` those whose row
    differs. `doubled` counts transactions with more rows than requests. `repeated` counts
    transactions that were sent twice and have two rows.
    """

    answers: int
    lost: int
    different: int
    doubled: int
    repeated: int


def compare(url: str, log: Log) -> AnswerComparison:
    answers = [answer for answer in log.answers() if "transaction_id" in answer]
    requests = [*answers, *log.refused()]
    with psycopg.connect(url) as connection:
        connection.execute(
            "CREATE TEMP TABLE answered"
            " (id uuid, transaction_id text, probability float8, version text)"
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
    return AnswerComparison(len(answers), *compared, *times)


class Verdict:
    """Check that no answer of a log was lost, and record the figures."""

    def __init__(self, state: State, url: str, figures: Figures, call: Caller) -> None:
        self._state, self._url, self._figures, self._call = state, url, figures, call

    def verified(self, log: Log) -> dict[str, Any]:
        """Return the report of `fraudops audit verify --answers`.

        The command's exit code must match the report.
        """
        done = self._call(
            "verify",
            "--answers",
            log.path,
            "--json",
            "--state",
            self._state.root,
            DATABASE_URL=self._url,
        )
        report: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if report["agrees"] else 65), done.stderr
        return report

    def nothing_lost(self, log: Log, fault: str) -> None:
        """Check a log after everything was shipped."""
        report, compared = self.verified(log), compare(self._url, log)
        lost, doubled = (
            report["log"]["lost"] + report["log"]["set_aside"] + compared.lost,
            report["duplicated"] + compared.doubled,
        )
        context = f"{fault}: {report}, {compared}"
        assert (lost, doubled, compared.different, report["log"]["repeated"]) == (0, 0, 0, 0), (
            context
        )
        assert report["log"]["in_table"] == report["log"]["lines"] > 0, context
        assert compared.repeated > 0, context
        refused = log.refused()
        broken = sum(line["status"] == 0 for line in refused)
        unanswered = (
            f"; refused {len(refused) - broken:,}, connection broken {broken:,}" if refused else ""
        )
        self._figures.note(
            fault,
            f"{report['log']['lines']:,} answered,"
            f" {compared.repeated:,} transactions of them twice,"
            f" lost 0, duplicated 0{unanswered}",
        )
