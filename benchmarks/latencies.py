"""A compact histogram of latencies: counts in buckets that each span one per cent."""

from math import ceil, exp, log

BUCKETS_AN_E_FOLD = 100
LARGEST = 2100  # exp(21) microseconds, about twenty minutes


class Latencies:
    """A histogram whose percentiles are right within half a per cent.

    Adding a value takes a fraction of a microsecond, however many there are.
    """

    def __init__(self) -> None:
        self._counts = [0] * (LARGEST + 1)
        self.count = 0

    def add(self, seconds: float) -> None:
        self._counts[min(LARGEST, int(log(max(1.0, seconds * 1e6)) * BUCKETS_AN_E_FOLD))] += 1
        self.count += 1

    def include(self, other: "Latencies") -> None:
        self._counts = [
            one + another for one, another in zip(self._counts, other._counts, strict=True)
        ]
        self.count += other.count

    def percentile_ms(self, share: float) -> float:
        """Return the milliseconds that at least `share` of the latencies do not exceed.

        Uses the nearest rank. NaN if there are none.
        """
        if not self.count:
            return float("nan")
        left = max(1, ceil(share * self.count))
        for bucket, count in enumerate(self._counts):
            left -= count
            if left <= 0:
                return exp((bucket + 0.5) / BUCKETS_AN_E_FOLD) / 1000
        raise AssertionError("the counts are fewer than their sum")
