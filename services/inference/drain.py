"""`python -m services.inference.drain SECONDS`: the pod's preStop.

Every worker asks its clients to leave, and there is time for it.

It waits whatever the service says: ending at once would cut off who is just sending. Plain
standard library, so that it starts in no time.
"""

import os
import sys
import time
from http.client import HTTPConnection, HTTPException

ANSWER_SECONDS = 5.0


def begin(port: int, token: str) -> str | None:
    """None once the pod drains; else what came instead."""
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
            f"the pod does not drain ({fault}); it leaves after {seconds:g} s all the same\n"
        )
    time.sleep(max(0.0, seconds - (time.monotonic() - started)))


if __name__ == "__main__":
    main()
