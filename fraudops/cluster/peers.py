"""The other pods of the inference service, by the names of the headless Service.

The Service also names pods that are not ready.
"""

import random
import socket

from fraudops.settings import ClusterSettings

ASKED = 8


def peer_urls(cluster: ClusterSettings, admin_port: int | None) -> list[str]:
    """Return the admin URLs of at most ASKED other pods, in random order.

    The list is empty outside of a cluster, and while the names cannot be resolved.
    """
    if cluster.release is None or admin_port is None:
        return []
    try:
        found = _addresses(f"{cluster.release}-inference-admin.{cluster.namespace}") - _addresses(
            socket.gethostname()
        )
    except OSError:
        return []
    urls = [
        f"http://{f'[{address}]' if ':' in address else address}:{admin_port}" for address in found
    ]
    return random.sample(urls, min(len(urls), ASKED))


def _addresses(host: str) -> set[str]:
    return {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
