"""The two files that the workers of a pod share.

One holds what the pod serves. To write it is the pod's commit. The other holds what the poller saw
of the serving record.
"""

from pathlib import Path
from typing import TypeVar

import msgspec

from fraudops.extensible import Extensible, decode_document, encode_document
from fraudops.files import write_atomically
from fraudops.promotion.pod_rules import PodState
from fraudops.promotion.serving_record import ServingTarget
from fraudops.state import State

Content = TypeVar("Content", bound=Extensible)


class RecordView(Extensible, frozen=True, kw_only=True):
    """What the pod last saw of the serving record, and why the pod does not follow it.

    `target` is what the pod must reach to be caught up. `ready` is set once the pod has caught up
    since its start. `refused` says why the start did not serve the cached bundle. `without_model`
    means that the record exists and has never named a model, so the pod has nothing to serve.
    """

    target: ServingTarget | None = None
    ready: bool = False
    error: str | None = None
    refused: str | None = None
    without_model: bool = False


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
    """Return the default when the file is missing or damaged; the record decides then."""
    try:
        return decode_document(path.read_bytes(), type(default))
    except (FileNotFoundError, msgspec.MsgspecError):
        return default
