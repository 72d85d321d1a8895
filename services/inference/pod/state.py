"""The two files by which the workers of a pod know the same: what the pod serves (its commit
point), and what its poller saw of the record.
"""

from pathlib import Path
from typing import TypeVar

import msgspec

from fraudops.extensible import Extensible, decode_document, encode_document
from fraudops.files import write_atomically
from fraudops.state import State

KEPT = 3
Content = TypeVar("Content", bound=Extensible)


class PodState(Extensible, frozen=True, kw_only=True):
    """What the pod serves; writing it is the pod's commit.

    `served` holds the digests that served before, newest first: their bundles are kept.

    Without a digest the pod serves nothing (yet, or because its bundle was refused at the
    start), but still never goes below `epoch`.
    """

    epoch: int = 0
    version: str | None = None
    digest: str | None = None
    source: str | None = None
    served: tuple[str, ...] = ()

    def is_behind(self, epoch: int) -> bool:
        return epoch > self.epoch or (epoch == self.epoch > 0 and self.digest is None)

    def next(self, epoch: int, version: str, digest: str, source: str) -> "PodState":
        earlier = [known for known in (self.digest, *self.served) if known and known != digest]
        return msgspec.structs.replace(
            self,
            epoch=epoch,
            version=version,
            digest=digest,
            source=source,
            served=tuple(dict.fromkeys(earlier))[:KEPT],
        )

    def without_model(self, served: tuple[str, ...]) -> "PodState":
        """The state of a pod that serves nothing, at the same epoch."""
        return msgspec.structs.replace(self, version=None, digest=None, source=None, served=served)


class RecordView(Extensible, frozen=True, kw_only=True):
    """What the pod last saw of the serving record, and what keeps it from following.

    `ready` is set once the pod has caught up since its start.
    """

    epoch: int = 0
    version: str | None = None
    ready: bool = False
    error: str | None = None
    refused: str | None = None


def pod_state_path(state: State) -> Path:
    return state.run / "pod.json"


def record_view_path(state: State) -> Path:
    return state.run / "record.json"


def read_pod_state(state: State) -> PodState:
    return _read(pod_state_path(state), PodState())


def read_record_view(state: State) -> RecordView:
    return _read(record_view_path(state), RecordView())


def write(path: Path, content: Extensible) -> None:
    """Write the file by renaming; it is not synced.

    It need not survive a crash of the node, because the next start reads the record.
    """
    write_atomically(path, encode_document(content))


def _read(path: Path, default: Content) -> Content:
    """The default when the file is missing or is not one of ours: the record decides then."""
    try:
        return decode_document(path.read_bytes(), type(default))
    except (FileNotFoundError, msgspec.MsgspecError):
        return default
