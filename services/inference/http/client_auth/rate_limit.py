"""Rates of clients: a token bucket for each name, in each worker.

The limit is approximate. Each worker counts for itself, and a batch is known to be large only after
its rows are read.
"""

from collections import OrderedDict
from collections.abc import Mapping

MIN_BURST = 10.0
MOST_SECONDS = 86_400.0
MAX_BUCKETS = 4096


class TokenBucket:
    """The transactions that one client may send now: `tokens`, filled by `rate` a second.

    It holds at most `burst` of them. A batch may make them negative.
    """

    __slots__ = ("_refilled", "burst", "rate", "tokens")

    def __init__(self, rate: float, now: float) -> None:
        self.tokens = self.burst = self.rate = 0.0
        self.set_rate(rate)
        self.tokens, self._refilled = self.burst, now

    def set_rate(self, rate: float) -> None:
        """Set the transactions a second. A faster client gets its larger burst over time."""
        self.rate, self.burst = rate, max(rate, MIN_BURST)
        self.tokens = min(self.tokens, self.burst)

    def wait_seconds(self, now: float) -> float:
        """Return the seconds until the client may send again, or 0.0 if it may send now.

        `now` is in seconds since 1970.
        """
        # After a step of the clock into the past nothing is added, and time counts from there.
        if now > self._refilled:
            self.tokens = min(self.burst, self.tokens + (now - self._refilled) * self.rate)
        self._refilled = now
        if self.tokens >= 1.0:
            return 0.0
        # A tiny rate would otherwise make a number that no header can carry.
        return min(MOST_SECONDS, (1.0 - self.tokens) / self.rate)


class RateLimits:
    """The buckets of all clients of one worker, by their names.

    All keys and tokens of a name share its bucket. `default` is the rate of a name without one of
    its own, in transactions a second, or None without a limit.
    """

    def __init__(self, default: float | None) -> None:
        self._default = default
        self.rates: Mapping[str, float | None] = {}
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def set_rates(self, rates: Mapping[str, float | None]) -> None:
        """Replace the rates of the names that have one of their own; None is no limit.

        What a client has used up stays used up.
        """
        self.rates = rates
        for name, bucket in list(self._buckets.items()):
            rate = rates.get(name, self._default)
            if rate is None:
                del self._buckets[name]
            else:
                bucket.set_rate(rate)

    def bucket(self, name: str, now: float) -> TokenBucket | None:
        """Return the bucket of a client, or None if it has no limit.

        Beyond 4,096 clients, the one that came longest ago starts with a full bucket again.
        """
        rate = self.rates.get(name, self._default)
        if rate is None:
            return None
        bucket = self._buckets.get(name)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:
                self._buckets.popitem(last=False)
            bucket = self._buckets[name] = TokenBucket(rate, now)
        # A client that is still remembered must not lose its bucket: nothing would charge it.
        self._buckets.move_to_end(name)
        return bucket

    def charge(self, name: str, transactions: int) -> None:
        """Take transactions from the bucket of a client, also below zero."""
        if bucket := self._buckets.get(name):
            bucket.tokens -= transactions
