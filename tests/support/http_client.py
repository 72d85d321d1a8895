"""The HTTP client of all tests."""

import httpx

# One client, because a TLS context costs more than a request. No kept-alive connections: the kernel
# then spreads the requests over all workers.
HTTP = httpx.Client(
    verify=False, trust_env=False, timeout=30, limits=httpx.Limits(max_keepalive_connections=0)
)
