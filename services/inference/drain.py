"""`python -m services.inference.drain SECONDS`: the pod's preStop hook.

It makes every worker ask its clients to close their connections, and gives them time to do so.
It waits the full time even if the call fails: returning early would cut off clients in the middle
of a request. It imports only the standard library, to start quickly.
"""

import os
import sys
import time
from http.client import HTTPConnection, HTTPException

ANSWER_SECONDS = 5.0


def begin(port: int, token: str) -> str | None:
    """Start the drain; return None, or the reason why it did not start."""
    connection = HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    try:
        connection.request(
            "POST",
            "/drain",
            body="{}",
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
        )
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()
    return None if status < 300 else f"status {status}"


def main() -> None:
    seconds = float(sys.argv[1])
    started = time.monotonic()
    fault = begin(
        int(os.environ.get("FRAUDOPS_ADMIN_PORT", "8001")),
        os.environ.get("FRAUDOPS_ADMIN_TOKEN", ""),
    )
    if fault:
        sys.stderr.write(
            f"the pod does not drain ({fault}); it still shuts down after {seconds:g} s\n"
        )
    time.sleep(max(0.0, seconds - (time.monotonic() - started)))


if __name__ == "__main__":
    main()
