"""The addresses of the Kubernetes API that a network plugin may see."""

from dataclasses import dataclass, replace

from tests.cluster.release import Object, Release


@dataclass(frozen=True)
class ApiServer:
    """The ClusterIP of the Kubernetes API, the addresses behind it, and the ports of both."""

    cluster_ip: str
    addresses: tuple[str, ...]
    ports: tuple[int, ...]

    @classmethod
    def of(cls, release: Release) -> "ApiServer":
        default = replace(release, namespace="default")
        service = default.get("service", "kubernetes")["spec"]
        slices = default.get("endpointslice", "-l", "kubernetes.io/service-name=kubernetes")
        return cls(
            service["clusterIP"],
            tuple(
                address
                for found in slices["items"]
                for endpoint in found["endpoints"]
                for address in endpoint["addresses"]
            ),
            (443, *sorted({port["port"] for found in slices["items"] for port in found["ports"]})),
        )

    def values(self) -> Object:
        """Return `networkPolicy.apiServer` as docs/operations/network.md recommends it."""
        cidrs = [
            f"{address}/{128 if ':' in address else 32}"
            for address in (self.cluster_ip, *self.addresses)
        ]
        return {"cidrs": cidrs, "ports": list(self.ports)}
