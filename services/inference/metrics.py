"""Prometheus metrics, correct across worker processes and after a worker dies.

Each process writes its own set of prometheus-client's files. prometheus-client reads
PROMETHEUS_MULTIPROC_DIR at import, so `main()` sets it first. The model's version is a value and
never a label: a label would remain after a promotion.
"""

import os
from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from fraudops.promotion.serving_record import ServingTarget

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """The metrics of one worker, in the files of its process in `folder`.

    Create it after the fork. Raises OSError if the files cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        # The registry only keeps the definitions out of the process-wide default: `render` reads
        # the files of all workers.
        registry = CollectorRegistry()
        self._requests = Counter(
            "http_requests",
            "Answered requests.",
            ["method", "endpoint", "status"],
            registry=registry,
        )
        self._duration = Histogram(
            "http_request_duration_seconds",
            "From the request's first line to its answer.",
            ["endpoint"],
            registry=registry,
            buckets=SECONDS,
        )
        predictions = Counter(
            "fraudops_predictions",
            "Audited and answered predictions.",
            ["decision"],
            registry=registry,
        )
        self._genuine, self._fraud = predictions.labels("genuine"), predictions.labels("fraud")
        self._refused = Counter(
            "fraudops_spool_refused",
            "Predictions and labels that were not answered, because they could not be audited: "
            "the spool is full, its disk fails, or (with commit) PostgreSQL did not confirm.",
            registry=registry,
        )
        self._lost = Counter(
            "fraudops_audit_lost",
            "Audit records (an upper bound) that processes held only in memory when they ended.",
            registry=registry,
        )
        bundles_refused = Counter(
            "fraudops_bundles_refused",
            "Bundles that this pod refused: by a signed statement, or by the bundle's content.",
            ["reason"],
            registry=registry,
        )
        # Both exist from the start. Prometheus sees no increase of a counter that begins at 1.
        self._bundles_refused = {
            reason: bundles_refused.labels(reason) for reason in ("signature", "bundle")
        }
        self._epoch = Gauge(
            "fraudops_serving_epoch",
            "The epoch that this pod serves.",
            registry=registry,
            multiprocess_mode="max",
        )
        gauge = partial(Gauge, registry=registry, multiprocess_mode="livemostrecent")
        self._version = gauge("fraudops_serving_version", "The model version that this pod serves.")
        self._sample = gauge(
            "fraudops_model_trained_on_sample",
            "1 while this pod serves a model of the packaged sample.",
        )
        self._record = gauge(
            "fraudops_record_epoch", "The serving record's epoch as this pod last read it."
        )
        self._mirrored = gauge(
            "fraudops_record_mirrored_epoch",
            "The last epoch whose alias is known to be in the registry.",
        )
        self._record_read = gauge(
            "fraudops_record_read_timestamp_seconds",
            "When this pod last read the serving record, in seconds since 1970.",
        )
        self._duration.labels("other")
        _reserve(folder)
        self._counted: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def answered(self, method: str, endpoint: str, status: int, seconds: float) -> None:
        """Count one answered request; each request is counted exactly once.

        `endpoint` must be one of a small fixed set, because each value adds time series.
        """
        requests, duration = self._of(method, endpoint, status)
        requests.inc()
        duration.observe(seconds)

    def answered_together(
        self, method: str, endpoint: str, status: int, seconds: Sequence[float]
    ) -> None:
        """Count several requests, one for each value in `seconds`.

        It costs about as much as one or two calls of `answered`.
        """
        # prometheus-client can only observe one value at a time, so add to the histogram's
        # private sum and buckets directly.
        buckets: dict[int, int] = {}
        for value in seconds:
            bucket = bisect_left(SECONDS, value)
            buckets[bucket] = buckets.get(bucket, 0) + 1
        requests, duration = self._of(method, endpoint, status)
        requests.inc(len(seconds))
        duration._sum.inc(sum(seconds))
        for bucket, count in buckets.items():
            duration._buckets[bucket].inc(count)

    def _of(self, method: str, endpoint: str, status: int) -> tuple[Counter, Histogram]:
        key = (method, endpoint, status)
        if key not in self._counted:
            known = method if method in METHODS else "other"
            self._counted[key] = (
                self._requests.labels(known, endpoint, status),
                self._duration.labels(endpoint),
            )
        return self._counted[key]

    def decided(self, frauds: int, genuine: int) -> None:
        if frauds:
            self._fraud.inc(frauds)
        if genuine:
            self._genuine.inc(genuine)

    def refused(self, records: int) -> None:
        self._refused.inc(records)

    def lost(self, records: int) -> None:
        self._lost.inc(records)

    def bundle_refused(self, reason: str) -> None:
        """Count a refusal. `reason` is "signature" or "bundle"."""
        self._bundles_refused[reason].inc()

    def serves(self, target: ServingTarget, sample: bool) -> None:
        self._epoch.set(target.epoch)
        self._sample.set(sample)
        version = target.version
        self._version.set(float(version) if version.isdigit() else float("nan"))

    def record_read(self, epoch: int, mirrored: int) -> None:
        self._record.set(epoch)
        self._mirrored.set(mirrored)
        self._record_read.set_to_current_time()


def _reserve(folder: Path) -> None:
    """Allocate the disk space of the metric files.

    prometheus-client maps sparse files. If the disk fills up later, the first write to a page
    would kill the process with SIGBUS.
    """
    for path in folder.glob(f"*_{os.getpid()}.db"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
