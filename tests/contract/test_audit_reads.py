"""The reads of monitor and drift from the audit tables of a real PostgreSQL.

Small windows are read in full. Large ones are sampled, and the result says so.
"""

import random
import re
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from fraudops.audit import sampling
from fraudops.audit.activity import Activity, activity, statement
from fraudops.audit.database import create_engine
from fraudops.audit.records import Prediction, Record, encode, new_label
from fraudops.drift.window import recent, selection
from fraudops.feature_encryption import protection
from services.shipper.sink import Sink
from tests.support.audit_records import prediction

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ROWS = 8_000
EACH_TH_FRAUD, EACH_TH_MISSED, EACH_TH_TWICE = 50, 40, 10


@pytest.fixture
async def engine(database: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database)
    yield engine
    await engine.dispose()


async def store(url: str, records: list[Record]) -> None:
    sink = Sink(url)
    outcome = await sink.ship([encode(record) for record in records])
    await sink.close()
    assert not outcome.rejected


def drawn(chance: random.Random, moment: datetime, **changes: Any) -> Prediction:
    """Return a prediction whose id comes from the seed, so that the sample is always the same."""
    bits = int(moment.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62 | chance.getrandbits(62)
    return prediction(id=str(uuid.UUID(int=bits)), **changes)


def traffic(seed: int) -> list[Record]:
    """Return an hour of ROWS transactions, all of them labelled.

    A tenth is sent twice. A fiftieth is decided as fraud, half of these correctly. A fortieth is
    a missed fraud. Labels name the transaction_id or the id of the last answer.
    """
    chance, records = random.Random(seed), list[Record]()
    for number in range(ROWS):
        moment, fraud = NOON + number * (HOUR / ROWS), number % EACH_TH_FRAUD == 0
        changes = {
            "transaction_id": f"t-{number}",
            "prediction": int(fraud),
            "latency_ms": float(number),
            "features": {"T": float(number)},
        }
        answers = [
            drawn(chance, moment + timedelta(milliseconds=10 * again), **changes)
            for again in range(1 + (number % EACH_TH_TWICE == 3))
        ]
        true = number % (2 * EACH_TH_FRAUD) == 0 if fraud else number % EACH_TH_MISSED == 7
        named = (
            {"transaction_id": f"t-{number}"} if number % 2 else {"prediction_id": answers[-1].id}
        )
        records += [*answers, new_label(int(true), NOON + HOUR, "chargeback", **named)]
    return records


@pytest.fixture
def smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a window of a thousand rows a large one."""
    monkeypatch.setattr("fraudops.audit.sampling.EXACT_ROWS", 1_000)
    monkeypatch.setattr("fraudops.audit.sampling.PILOT_LEVEL", 3)
    monkeypatch.setattr("fraudops.audit.activity.SAMPLED_ROWS", 1_000)


async def test_recent_rows_come_as_columns_in_order_of_time(
    engine: AsyncEngine, database: str
) -> None:
    late = prediction(
        NOON + 2 * HOUR, features={"V1": 3.0, "Amount": 4.5}, prediction=1, fraud_probability=0.75
    )
    early = prediction(NOON, features={"V1": 1.0})
    await store(
        database,
        [late, early, prediction(NOON + 4 * HOUR), prediction(NOON + HOUR, model_digest="e" * 64)],
    )
    window = await recent(
        engine, NOON, NOON + 3 * HOUR, 10, ["Amount", "V1"], model_digest="d" * 64
    )
    assert window.rows == 2
    assert window.id.tolist() == [early.id, late.id]
    assert window.timestamp.tolist() == [
        NOON.replace(tzinfo=None),
        (NOON + 2 * HOUR).replace(tzinfo=None),
    ]
    assert window.prediction.tolist() == [0, 1]
    assert window.probability.tolist() == [0.125, 0.75]
    np.testing.assert_array_equal(window.features, [[np.nan, 1.0], [4.5, 3.0]])


async def test_features_are_opened_by_their_keys_and_the_rest_is_counted_by_its_reason(
    engine: AsyncEngine, database: str
) -> None:
    key, other = bytes(32), bytes(range(32))
    records = [prediction(NOON + timedelta(minutes=number)) for number in range(4)]
    for place, (how, used) in enumerate((("sealed", key), ("sealed", other), ("hashed", key)), 1):
        keep = protection(how, [used])  # type: ignore[arg-type]
        assert keep
        records[place] = prediction(
            id=records[place].id, features=keep(records[place].id, {"V1": float(place)})
        )
    await store(database, list(records))
    window = await recent(engine, NOON, NOON + HOUR, 10, ["V1"], keys=[key])
    np.testing.assert_array_equal(window.features[:, 0], [-1.25, 1.0, np.nan, np.nan])
    assert window.unreadable == {
        "they are sealed by another key than FRAUDOPS_AUDIT__KEY": 1,
        "only a keyed hash of them is kept": 1,
    }
    assert (window.rows, len(window.probability)) == (4, 4)


async def test_a_window_without_rows_gives_empty_columns(engine: AsyncEngine) -> None:
    window = await recent(engine, NOON, NOON + HOUR, 10, ["V1", "Amount"])
    assert window.rows == 0
    assert window.features.shape == (0, 2)
    assert window.id.shape == window.prediction.shape == (0,)


async def test_a_large_window_is_sampled_evenly_and_the_same_each_time(
    engine: AsyncEngine, database: str
) -> None:
    await store(
        database,
        [
            prediction(NOON + timedelta(seconds=number), features={"V1": float(number)})
            for number in range(3_000)
        ],
    )
    first, second = [await recent(engine, NOON, NOON + HOUR, 600, ["V1"]) for _ in range(2)]
    assert first.rows == 3_000
    assert 450 < len(first.id) < 750
    assert first.id.tolist() == second.id.tolist()
    assert 1_300 < first.features.mean() < 1_700


async def test_a_repeated_transaction_is_one_decision_the_earliest(
    engine: AsyncEngine, database: str
) -> None:
    await store(
        database,
        [
            prediction(
                NOON + timedelta(minutes=2),
                transaction_id="t-1",
                prediction=0,
                fraud_probability=0.1,
            ),
            prediction(
                NOON + timedelta(minutes=1),
                transaction_id="t-1",
                prediction=1,
                fraud_probability=0.9,
            ),
            prediction(
                NOON + timedelta(minutes=3),
                transaction_id="t-2",
                prediction=0,
                fraud_probability=0.3,
            ),
            prediction(NOON + timedelta(minutes=4)),
            prediction(NOON + timedelta(minutes=5)),
        ],
    )
    total, versions = await activity(engine, NOON, NOON + HOUR, "credit-fraud")
    assert (total.answers, total.decisions, total.frauds) == (5, 4, 1)
    assert total.mean_probability == pytest.approx((0.9 + 0.3 + 0.125 + 0.125) / 4)
    assert total.fraud_rate == 0.25
    assert [version.model_version for version in versions] == ["3"]


async def test_the_latest_label_of_a_decision_counts(engine: AsyncEngine, database: str) -> None:
    caught, missed = (
        prediction(NOON, prediction=1, transaction_id="t-1"),
        prediction(NOON, prediction=0),
    )
    again = prediction(NOON + HOUR, prediction=0, transaction_id="t-1")
    await store(
        database,
        [
            caught,
            missed,
            again,
            new_label(0, NOON + 3 * HOUR, "first look", transaction_id="t-1"),
            # The label names the repeat, but the decision is still the first answer.
            new_label(1, NOON + 5 * HOUR, "chargeback", prediction_id=again.id),
            new_label(
                0, NOON + 4 * HOUR, "a late word of an earlier look", prediction_id=caught.id
            ),
            new_label(
                1, NOON + 3 * HOUR, "chargeback", prediction_id=missed.id, transaction_id="unknown"
            ),
            new_label(1, NOON, "of something never answered", transaction_id="t-9"),
        ],
    )
    total, _ = await activity(engine, NOON, NOON + 2 * HOUR, "credit-fraud")
    assert (
        total.labelled,
        total.true_positives,
        total.false_negatives,
        total.false_positives,
        total.true_negatives,
    ) == (2, 1, 1, 0, 0)
    assert (total.precision, total.recall, total.label_coverage) == (1.0, 0.5, 1.0)
    assert total.false_positive_rate is None


async def test_a_label_from_the_future_does_not_win_for_ever(
    engine: AsyncEngine, database: str
) -> None:
    """A release that did not refuse such labels may have stored some."""
    answer, arrival = prediction(NOON, prediction=1), NOON + HOUR
    far = new_label(
        0, NOON + timedelta(days=3650), "typo", prediction_id=answer.id, received_at=arrival
    )
    corrected = new_label(
        1, NOON + 2 * HOUR, "analyst", prediction_id=answer.id, received_at=NOON + 3 * HOUR
    )
    early = new_label(1, NOON, "rule", prediction_id=answer.id, received_at=NOON)
    await store(database, [answer, early, far])
    before, _ = await activity(engine, NOON, NOON + HOUR, "credit-fraud")
    assert (before.true_positives, before.false_positives) == (0, 1)
    await store(database, [corrected])
    after, _ = await activity(engine, NOON, NOON + HOUR, "credit-fraud")
    assert (after.true_positives, after.false_positives) == (1, 0)


async def test_activity_is_reported_by_version_for_one_model_and_window(
    engine: AsyncEngine, database: str
) -> None:
    versions = [("3", "d" * 64, 1.0), ("4", "e" * 64, 3.0), ("4", "e" * 64, 5.0)]
    await store(
        database,
        [
            *(
                prediction(
                    NOON + timedelta(minutes=number),
                    model_version=name,
                    model_digest=digest,
                    latency_ms=latency,
                )
                for number, (name, digest, latency) in enumerate(versions)
            ),
            prediction(NOON, model_name="other"),
            prediction(NOON - HOUR),
            prediction(NOON + HOUR),
        ],
    )
    total, parts = await activity(engine, NOON, NOON + HOUR, "credit-fraud")
    assert (total.answers, total.latency_p50_ms, total.model_version) == (3, 3.0, None)
    assert [(part.model_version, part.answers, part.latency_p50_ms) for part in parts] == [
        ("3", 1, 1.0),
        ("4", 2, 4.0),
    ]
    assert (total.first, total.last) == (NOON, NOON + timedelta(minutes=2))


async def test_activity_of_an_empty_window_is_zero_and_none(engine: AsyncEngine) -> None:
    total, versions = await activity(engine, NOON, NOON + HOUR, "credit-fraud")
    assert versions == []
    assert (total.answers, total.decisions, total.labelled) == (0, 0, 0)
    assert (
        total.fraud_rate,
        total.mean_probability,
        total.latency_p99_ms,
        total.precision,
        total.f1,
    ) == (None,) * 5


async def test_a_repeat_a_day_later_is_a_decision_and_a_repeat_within_a_day_is_none(
    engine: AsyncEngine, database: str
) -> None:
    moments = [NOON - HOUR, NOON, NOON + timedelta(hours=23), NOON + timedelta(hours=48)]
    await store(database, [prediction(moment, transaction_id="t-1") for moment in moments])
    windows = [
        (NOON - 2 * HOUR, NOON),
        (NOON, NOON + 24 * HOUR),
        (NOON + 24 * HOUR, NOON + 49 * HOUR),
    ]
    counts = [(await activity(engine, since, until, "credit-fraud"))[0] for since, until in windows]
    assert [(one.answers, one.decisions) for one in counts] == [(1, 1), (2, 0), (1, 1)]


async def test_another_models_answer_is_no_repeat(engine: AsyncEngine, database: str) -> None:
    await store(
        database,
        [
            prediction(NOON, transaction_id="t-1", model_name="other"),
            prediction(NOON + HOUR, transaction_id="t-1"),
        ],
    )
    total, _ = await activity(engine, NOON, NOON + 2 * HOUR, "credit-fraud")
    assert (total.answers, total.decisions) == (1, 1)


EXPECTED = {
    "answers": ROWS * 1.1,
    "decisions": ROWS,
    "frauds": ROWS / EACH_TH_FRAUD,
    "fraud_rate": 1 / EACH_TH_FRAUD,
    "label_coverage": 1.0,
    "precision": 0.5,
    "recall": 80 / 280,
    "false_positive_rate": 80 / (ROWS - 280),
}


def assert_within_margins(estimate: Activity) -> None:
    margins = estimate.margins()
    for name, value in EXPECTED.items():
        assert abs(getattr(estimate, name) - value) <= 1.5 * margins[name] + 1e-12, (
            name,
            getattr(estimate, name),
            value,
            margins[name],
        )


async def test_a_large_window_is_estimated_within_its_margins_and_its_frauds_are_counted(
    engine: AsyncEngine, database: str, smaller: None
) -> None:
    await store(database, traffic(7))
    total, versions = await activity(engine, NOON, NOON + HOUR, "credit-fraud")
    again, _ = await activity(engine, NOON, NOON + HOUR, "credit-fraud")
    assert total == again
    assert (total.estimated, total.weight, total.fraud_weight) == (True, 16, 1)
    assert 550 < total.read < 850
    assert (total.frauds, total.precision, total.margins()["precision"]) == (160, 0.5, 0.0)
    assert total.margins()["recall"] > 0.02
    assert_within_margins(total)
    assert [version.answers for version in versions] == [total.answers]
    assert total.latency_p50_ms == pytest.approx(ROWS / 2, rel=0.1)


async def test_the_same_window_counted_in_full_gives_the_true_figures(
    engine: AsyncEngine, database: str
) -> None:
    await store(database, traffic(7))
    total, _ = await activity(engine, NOON, NOON + HOUR, "credit-fraud")
    assert (total.estimated, set(total.margins().values())) == (False, {0.0})
    assert_within_margins(total)


async def test_frauds_too_many_to_count_are_estimated_too(
    engine: AsyncEngine, database: str, smaller: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fraudops.audit.activity.SAMPLED_ROWS", 50)
    monkeypatch.setattr("fraudops.audit.activity.SAMPLED_FRAUDS", 50)
    await store(database, traffic(8))
    total, _ = await activity(engine, NOON, NOON + HOUR, "credit-fraud")
    assert (total.fraud_weight > 1, total.weight > total.fraud_weight) == (True, True)
    assert total.margins()["precision"] > 0.02
    assert_within_margins(total)


async def test_drift_reads_a_share_of_a_large_window_evenly_and_the_same_each_time(
    engine: AsyncEngine, database: str, smaller: None
) -> None:
    await store(database, traffic(7))
    first, second = [
        await recent(engine, NOON, NOON + HOUR, 600, ["T"], model_digest="d" * 64) for _ in range(2)
    ]
    assert (first.estimated, first.rows % 16) == (True, 0)
    assert first.rows == pytest.approx(ROWS * 1.1, rel=0.15)
    assert len(first.id) == first.rows / 16
    assert first.id.tolist() == second.id.tolist() == sorted(first.id)
    assert first.features.mean() == pytest.approx(ROWS / 2, rel=0.1)
    assert (await recent(engine, NOON, NOON + HOUR, 600, ["T"], model_digest="e" * 64)).rows == 0


@pytest.mark.parametrize("analyzed", [False, True])
async def test_a_large_window_is_read_by_the_index_with_and_without_statistics(
    engine: AsyncEngine, database: str, analyzed: bool
) -> None:
    await store(database, traffic(7))
    if analyzed:
        with psycopg.connect(database) as connection:
            connection.execute("ANALYZE predictions")
    query = sampling.query_parameters(NOON - 24 * HOUR, NOON + HOUR, "credit-fraud")
    async with engine.connect() as connection:
        await sampling.estimate_window(connection, query)
        for chosen, parameters in (statement(query, 4, 1), selection(query, 4)):
            plan = "\n".join(
                (await connection.execute(text(f"EXPLAIN {chosen.text}"), parameters)).scalars()
            )
            used = set(re.findall(r"predictions_20261102_(\w+)", plan))
            assert used <= {"prediction_expr_timestamp_idx", "transaction_id_idx"}, plan
            assert "Seq Scan" not in plan
