"""The other pods of the inference service, as a pod finds them: by the names of the headless
Service, ready or not.
"""

import random
import socket

from fraudops.settings import ClusterSettings

ASKED = 8


def peer_urls(cluster: ClusterSettings, admin_port: int | None) -> list[str]:
    """The admin urls of a few other pods in random order; none outside of a cluster, or while
    nobody answers for their names.
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
