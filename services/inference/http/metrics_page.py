"""Render the metrics of all workers of a pod as one page."""

import contextlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from fraudops.audit.shipper_status import ShipperStatus, read_shipper_status
from fraudops.drift.status import DriftStatus, read_drift_status
from fraudops.spool.segments import ASIDE, NEWER
from fraudops.state import State
from services.inference.pod.state import read_pod_state

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class PodCollector:
    """Collects, at each scrape, the live workers, the spool and the shipper's last status."""

    def __init__(self, workers: Callable[[], int], spool: Path, wanted: int = 1) -> None:
        self._workers, self._spool, self._wanted = workers, spool, wanted

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "fraudops_workers", "Workers of this pod that are registered.", value=self._workers()
        )
        yield GaugeMetricFamily(
            "fraudops_workers_wanted", "Workers that this pod should have.", value=self._wanted
        )
        segments = _sizes(self._spool, "*.seg")
        yield GaugeMetricFamily(
            "fraudops_spool_bytes",
            "Bytes in the audit spool, shipped ones not yet removed included.",
            value=sum(segments),
        )
        yield GaugeMetricFamily(
            "fraudops_spool_segments", "Segment files in the audit spool.", value=len(segments)
        )
        aside = sum(_sizes(self._spool / ASIDE, "*.jsonl"))
        yield GaugeMetricFamily(
            "fraudops_spool_aside_bytes",
            "Bytes of dead letters, which count towards the room of the audit spool.",
            value=aside,
        )
        yield GaugeMetricFamily(
            "fraudops_spool_newer_bytes",
            "Bytes of records that only a shipper of a newer release can ship.",
            value=sum(_sizes(self._spool / NEWER, "*.jsonl")),
        )
        state = State.at(self._spool.parent)
        if told := read_shipper_status(state):
            yield from _shipper(told, datetime.now(UTC))
        if drift_status := read_drift_status(state):
            yield from _drift(drift_status, read_pod_state(state).digest)


def _sizes(folder: Path, pattern: str) -> list[int]:
    sizes = []
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    return sizes


def _shipper(told: ShipperStatus, now: datetime) -> Iterable[Metric]:
    """Yield the shipper's metrics. Counters restart with its process, as Prometheus expects."""
    oldest = max(0.0, (now - told.oldest_at).total_seconds()) if told.oldest_at else 0.0
    yield GaugeMetricFamily(
        "fraudops_spool_rows",
        "Predictions, labels and counts of refusals in the spool that are not in PostgreSQL yet.",
        value=told.backlog_rows,
    )
    yield GaugeMetricFamily(
        "fraudops_spool_unshipped_bytes",
        "Bytes in the audit spool that are not in PostgreSQL yet.",
        value=told.backlog_bytes,
    )
    yield GaugeMetricFamily(
        "fraudops_spool_oldest_seconds",
        "Age of the oldest answer that is only in the spool.",
        value=oldest,
    )
    yield GaugeMetricFamily(
        "fraudops_shipper_waiting",
        "1 while the shipper waits for PostgreSQL.",
        value=told.phase in ("waiting", "refused"),
    )
    yield GaugeMetricFamily(
        "fraudops_shipper_refused",
        "1 while PostgreSQL refuses every row, and the shipper waits for its repair.",
        value=told.phase == "refused",
    )
    yield GaugeMetricFamily(
        "fraudops_spool_aside_limit_bytes",
        "Bytes of dead letters at which the shipper waits.",
        value=told.aside_limit_bytes,
    )
    yield GaugeMetricFamily(
        "fraudops_shipper_silent_seconds",
        "Since the shipper last said anything.",
        value=max(0.0, (now - told.at).total_seconds()),
    )
    yield CounterMetricFamily(
        "fraudops_shipper_shipped", "Rows committed to PostgreSQL.", value=told.shipped
    )
    yield CounterMetricFamily(
        "fraudops_shipper_replayed",
        "Rows that were in PostgreSQL already when they were shipped.",
        value=told.replayed,
    )
    yield CounterMetricFamily(
        "fraudops_shipper_set_aside",
        "Records and damaged stretches set aside with their reason.",
        value=told.set_aside,
    )
    yield CounterMetricFamily(
        "fraudops_shipper_missing",
        "Records that must have stood where a segment is damaged.",
        value=told.missing,
    )
    yield GaugeMetricFamily(
        "fraudops_spool_abandoned_bytes",
        "Bytes in dead pods' folders on the spool's volume.",
        value=told.abandoned_bytes,
    )
    yield CounterMetricFamily(
        "fraudops_spool_adopted_bytes",
        "Bytes taken from dead pods' folders into this pod's spool.",
        value=told.adopted_bytes,
    )


def _drift(drift_status: DriftStatus, digest: str | None) -> Iterable[Metric]:
    alarm = drift_status.alarms(digest)
    yield GaugeMetricFamily(
        "fraudops_drift_alarm",
        "1 while the last drift run that could tell alarms about the model that this pod serves.",
        value=alarm,
    )
    last_run = drift_status.last_run.timestamp()
    yield GaugeMetricFamily(
        "fraudops_drift_last_run_timestamp_seconds",
        "When drift was last looked for, in seconds since 1970.",
        value=last_run,
    )


class Readiness:
    def __init__(self, ready: bool) -> None:
        self._ready = ready

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "fraudops_ready",
            "1 while every worker of this pod serves the promoted model.",
            value=self._ready,
        )


def render(folder: Path, pod: PodCollector, ready: bool) -> bytes:
    """The metrics of all workers, dead ones' counts included."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))
    registry.register(pod)
    registry.register(Readiness(ready))
    text: bytes = generate_latest(registry)
    return text
