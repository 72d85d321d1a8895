"""How fast a client may send, with a clock that the test turns."""

import math

import pytest

from services.inference.http.client_auth.rate_limit import (
    MAX_BUCKETS,
    MOST_SECONDS,
    RateLimits,
    TokenBucket,
)
from services.inference.http.error_answers import problem_response
from services.inference.http.problems import RateLimitedError


def spent(bucket: TokenBucket, now: float) -> int:
    """Return how many transactions the bucket admits at once."""
    count = 0
    while not bucket.wait_seconds(now):
        bucket.tokens -= 1
        count += 1
    return count


@pytest.mark.parametrize(("rate", "burst"), [(0.5, 10), (10.0, 10), (250.0, 250)])
def test_a_client_may_send_its_burst_and_then_its_rate(rate: float, burst: int) -> None:
    bucket = TokenBucket(rate, 100.0)
    assert spent(bucket, 100.0) == burst
    assert bucket.wait_seconds(100.0) == pytest.approx(1 / rate)
    assert spent(bucket, 100.0 + 4 / rate) == 4
    # A long pause brings no more than the burst.
    assert spent(bucket, 1e6) == burst


def test_a_batch_makes_the_bucket_negative_and_the_client_wait() -> None:
    limits = RateLimits(2.0)
    bucket = limits.bucket("shop", 0.0)
    assert bucket
    limits.charge("shop", 110)
    assert bucket.tokens == -100
    assert bucket.wait_seconds(0.0) == pytest.approx(50.5)
    assert bucket.wait_seconds(50.4) == pytest.approx(0.1)
    assert bucket.wait_seconds(50.6) == 0.0


def test_a_step_of_the_clock_neither_locks_a_client_out_nor_fills_its_bucket() -> None:
    bucket = TokenBucket(1.0, 1e9)
    spent(bucket, 1e9)
    assert bucket.wait_seconds(1e9 - 3600) == 1.0
    assert bucket.wait_seconds(1e9 - 3599) == 0.0
    assert spent(bucket, 2e9) == 10


@pytest.mark.parametrize("rate", [5e-324, 1e-9, 1e300])
def test_the_wait_fits_into_a_header_whatever_the_rate(rate: float) -> None:
    bucket = TokenBucket(rate, 0.0)
    bucket.tokens = -1e5
    wait = bucket.wait_seconds(0.0)
    assert 0 < wait <= MOST_SECONDS or rate > 1
    _, headers, _ = problem_response(RateLimitedError(wait))
    assert int(dict(headers)[b"retry-after"]) == max(1, math.ceil(wait))


def test_the_keys_of_a_client_share_its_bucket_which_outlives_new_rates() -> None:
    limits = RateLimits(None)
    assert limits.bucket("shop", 0.0) is None
    limits.charge("shop", 5)
    limits.set_rates({"shop": 100.0})
    bucket = limits.bucket("shop", 0.0)
    assert bucket is limits.bucket("shop", 1.0)
    assert bucket
    limits.charge("shop", 95)
    limits.set_rates({"shop": 20.0})
    # A new file of keys fills no bucket.
    assert limits.bucket("shop", 0.0) is bucket
    assert (bucket.tokens, bucket.rate, bucket.burst) == (5, 20, 20)
    limits.set_rates({"shop": None})
    assert limits.bucket("shop", 0.0) is None
    assert limits.bucket("desk", 0.0) is None


def test_the_number_of_buckets_is_bounded_and_the_latest_stay() -> None:
    limits = RateLimits(1.0)
    first, second = limits.bucket("0", 0.0), limits.bucket("1", 0.0)
    for number in range(2, MAX_BUCKETS):
        limits.bucket(str(number), 0.0)
    assert limits.bucket("0", 0.0) is first
    limits.bucket("one more", 0.0)
    assert limits.bucket("0", 0.0) is first
    assert limits.bucket("1", 0.0) is not second
