"""The parts of one worker that the handlers of requests use."""

from dataclasses import dataclass
from pathlib import Path

from services.inference.audit.takeover import HandoverReceiver
from services.inference.audit.writers import Audit
from services.inference.failures import FailureLog
from services.inference.http.client_auth.authenticator import Authenticator
from services.inference.pod.coordinator import PodCoordinator
from services.inference.pod.status import Status
from services.inference.pod.worker import Drain, Worker
from services.inference.refusals import RefusalCounter
from services.inference.scoring import Scoring


@dataclass(frozen=True)
class ServiceContext:
    """One worker's collaborators; `bundles` is the folder of the pod's bundles."""

    worker: Worker
    scoring: Scoring
    audit: Audit
    status: Status
    pod: PodCoordinator
    receiver: HandoverReceiver
    bundles: Path
    refusals: RefusalCounter
    clients: Authenticator
    failures: FailureLog
    drain: Drain
