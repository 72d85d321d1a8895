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
# Labels that exist from the start. Prometheus sees no increase of a counter that begins at 1.
BUNDLE_REASONS = ("signature", "bundle")
CONNECTION_REASONS = ("too_many", "not_http", "url_too_long", "head_too_large", "slow_head")
CLIENT_REASONS = ("missing", "unknown", "scope", "rate")
PERMITS = ("batches", "labels")
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
            "From the last byte of the request to its answer.",
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
            "Predictions, labels and counts of refusals that could not be audited: "
            "the spool is full, its disk fails, or (with commit) PostgreSQL did not confirm.",
            registry=registry,
        )
        self._lost = Counter(
            "fraudops_audit_lost",
            "Audit records (an upper bound) that processes held only in memory when they ended.",
            registry=registry,
        )
        refused = Counter(
            "fraudops_bundles_refused",
            "Bundles that this pod refused: by a signed statement, or by the bundle's content.",
            ["reason"],
            registry=registry,
        )
        self._bundles_refused = {each: refused.labels(each) for each in BUNDLE_REASONS}
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
        self._define_boundary(registry)
        _reserve(folder)
        self._counted: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def _define_boundary(self, registry: CollectorRegistry) -> None:
        """Define the metrics of connections, clients and refusals."""
        counter = partial(Counter, registry=registry)
        histogram = partial(Histogram, registry=registry, buckets=SECONDS)
        gauge = partial(Gauge, registry=registry)
        self._upload = histogram(
            "http_request_upload_seconds",
            "From the end of a request's headers to the last byte of its body.",
            ["endpoint"],
        )
        waits = histogram(
            "fraudops_permit_wait_seconds", "Wait of a large request for its turn.", ["kind"]
        )
        self._waits = {kind: waits.labels(kind) for kind in PERMITS}
        self._shed = counter(
            "fraudops_requests_shed",
            "Requests that were not scored, because their client's deadline had passed.",
            ["endpoint"],
        )
        self._connections = gauge(
            "fraudops_connections", "Open connections.", multiprocess_mode="livesum"
        )
        refused = counter(
            "fraudops_connections_refused",
            "Connections that were closed with an error without reading the request.",
            ["reason"],
        )
        self._connections_refused = {each: refused.labels(each) for each in CONNECTION_REASONS}
        refused = counter(
            "fraudops_client_refused", "Requests of clients without access.", ["reason"]
        )
        self._clients_refused = {each: refused.labels(each) for each in CLIENT_REASONS}
        self._transactions_refused = counter(
            "fraudops_transactions_refused",
            "Transactions that were refused for their content, by their first fault.",
            ["endpoint", "field", "reason"],
        )
        self._jwks_read = gauge(
            "fraudops_jwks_read_timestamp_seconds",
            "When a worker last read the issuer's public keys, in seconds since 1970.",
            multiprocess_mode="livemostrecent",
        )

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

    def uploaded(self, endpoint: str, seconds: float) -> None:
        """Observe the time from the end of the headers to the last byte of the body."""
        self._upload.labels(endpoint).observe(seconds)

    def waited(self, kind: str, seconds: float) -> None:
        """Observe the wait for a permit. `kind` is one of PERMITS."""
        self._waits[kind].observe(seconds)

    def shed(self, endpoint: str) -> None:
        self._shed.labels(endpoint).inc()

    def connections(self, number: int) -> None:
        """Set the number of this worker's open connections."""
        self._connections.set(number)

    def connection_refused(self, reason: str) -> None:
        """Count a refused connection. `reason` is one of CONNECTION_REASONS."""
        self._connections_refused[reason].inc()

    def client_refused(self, reason: str) -> None:
        """Count a refused client. `reason` is one of CLIENT_REASONS."""
        self._clients_refused[reason].inc()

    def transaction_refused(self, endpoint: str, field: str, reason: str, rows: int) -> None:
        """Count refused transactions. The caller bounds the number of different labels."""
        self._transactions_refused.labels(endpoint, field, reason).inc(rows)

    def jwks_read(self) -> None:
        self._jwks_read.set_to_current_time()

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
