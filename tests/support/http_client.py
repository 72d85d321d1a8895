"""The HTTP client of all tests."""

import httpx

# A new connection for each request, so that the kernel deals them to all workers; one TLS context
# for all tests, which costs more than a request.
HTTP = httpx.Client(
    verify=False, trust_env=False, timeout=30, limits=httpx.Limits(max_keepalive_connections=0)
)
