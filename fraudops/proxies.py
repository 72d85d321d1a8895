"""Decide which calls may use the proxy that the environment names.

HTTP_PROXY, HTTPS_PROXY and ALL_PROXY are for the internet. A proxy cannot reach the loopback
addresses of this machine, and rarely the addresses of a cluster. There are two kinds of clients:

* Our own clients call `goes_direct` with the host that they are about to call.
* Clients inside libraries (MLflow's requests, boto3) read NO_PROXY. Every program calls
  `bypass_proxies` when it starts, so that NO_PROXY names the direct hosts.
"""

import os
from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

# urllib, requests, aiohttp and httpx all match a name and every name that ends with it.
DIRECT = ("localhost", "127.0.0.1", "::1", ".svc", ".cluster.local")
# Variables with the URL of a service that may run on this machine or in this cluster.
URLS = ("MLFLOW_TRACKING_URI", "MLFLOW_S3_ENDPOINT_URL")
# httpx refuses such a proxy when a client is made, and quotes a part of its password.
UNUSABLE = (
    "the proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names cannot be used: give it as "
    "http://HOST:PORT, with user and password percent-encoded"
)
API_SERVER = "KUBERNETES_SERVICE_HOST"


def goes_direct(host: str) -> bool:
    """Return True if a call to the host must bypass every proxy.

    These are the loopback addresses, the Kubernetes API, and names inside a cluster. A name without
    a dot is a Service of the same namespace, or a machine of the local network.
    """
    name = host.strip("[]").rstrip(".").lower()
    if name == os.environ.get(API_SERVER, "").strip("[]").lower():
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        labels = name.split(".")
    # `svc` is the third label of SERVICE.NAMESPACE.svc in every cluster domain.
    in_cluster = "svc" in labels[2:] or name.endswith(".cluster.local")
    return len(labels) == 1 or labels[-1] == "localhost" or in_cluster


def no_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """Return NO_PROXY in both spellings, with the user's hosts and every direct host.

    Some libraries read one spelling and some the other, so both have the same value.
    """
    named = [environment.get(name, "") for name in ("no_proxy", "NO_PROXY")]
    hosts = [host.strip() for value in named for host in value.split(",") if host.strip()]
    # `*` excludes every host, but most libraries accept it only as the whole value.
    if "*" in hosts:
        return {"no_proxy": "*", "NO_PROXY": "*"}
    hosts += DIRECT
    hosts += [host for host in map(_host, _addresses(environment)) if host and goes_direct(host)]
    value = ",".join(dict.fromkeys(hosts))
    return {"no_proxy": value, "NO_PROXY": value}


def bypass_proxies() -> None:
    """Set NO_PROXY, so that clients of this process and of its children reach direct hosts."""
    os.environ |= no_proxy(os.environ)


def _addresses(environment: Mapping[str, str]) -> list[str]:
    server = environment.get(API_SERVER, "")
    return [*(environment.get(name, "") for name in URLS), f"//{server}" if server else ""]


def _host(url: str) -> str:
    """Return the host of a URL, or "" if it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        # The client that uses this URL reports it, with the name of its setting.
        return ""
