"""Paths of the folders and files of one running product.

They are in the state folder on one machine, and in a volume of the pod in a cluster.
"""

from dataclasses import dataclass
from pathlib import Path

DEFAULT_STATE = ".fraudops"


@dataclass(frozen=True)
class State:
    """Paths below one folder. Its properties return paths and create nothing."""

    root: Path

    @classmethod
    def at(cls, folder: str | Path) -> "State":
        return cls(Path(folder).absolute())

    @property
    def endpoints(self) -> Path:
        """The URLs that `fraudops up` chose, as JSON (fraudops.endpoints)."""
        return self.root / "up.json"

    @property
    def serving_record(self) -> Path:
        return self.root / "serving.json"

    @property
    def admin_token(self) -> Path:
        return self.root / "admin.token"

    @property
    def keys(self) -> Path:
        """The folder of the signing keys. Only its owner may enter it."""
        return self.root / "keys"

    @property
    def verdict_key(self) -> Path:
        return self.keys / "verdict.pem"

    @property
    def waiver_key(self) -> Path:
        return self.keys / "waiver.pem"

    @property
    def public_keys(self) -> Path:
        return self.keys / "public"

    @property
    def client_keys(self) -> Path:
        """The hashes of the clients' API keys, which `fraudops api-keys` writes."""
        return self.root / "client-keys.json"

    @property
    def bundles(self) -> Path:
        """The folder of verified bundles: one folder for each, named by its digest."""
        return self.root / "bundles"

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    @property
    def run(self) -> Path:
        """The folder of the workers' sockets and of the pod's state file."""
        return self.root / "run"

    @property
    def metrics(self) -> Path:
        """The folder of prometheus-client's multiprocess files."""
        return self.root / "metrics"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def postgresql(self) -> Path:
        return self.root / "postgresql"

    @property
    def mlflow(self) -> Path:
        return self.root / "mlflow"
