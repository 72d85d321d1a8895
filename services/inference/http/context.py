"""The parts of one worker that the handlers of requests use."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fraudops.settings import HttpSettings
from services.inference.audit.takeover import HandoverReceiver
from services.inference.audit.writers import Audit
from services.inference.failures import FailureLog
from services.inference.http.bodies import BodyBudget, Permits
from services.inference.http.client_auth.authenticator import Authenticator
from services.inference.http.unread_answers import UnreadAnswers
from services.inference.metrics import Metrics
from services.inference.model import LoadedModel
from services.inference.pod.coordinator import PodCoordinator
from services.inference.pod.status import Status
from services.inference.pod.worker import Drain, Worker
from services.inference.refusals import RefusalCounter
from services.inference.scoring import Scoring


@dataclass(frozen=True)
class ServiceContext:
    """One worker's collaborators.

    `bundles` is the folder of the pod's bundles. `permits` are those of each kind of large request.
    `metrics_page` renders the metrics of all workers and takes whether the pod is ready. It blocks.
    `document` returns the OpenAPI document, as JSON, for the model that is served.
    """

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
    metrics: Metrics
    permits: Mapping[str, Permits]
    budget: BodyBudget
    answers: UnreadAnswers
    limits: HttpSettings
    metrics_page: Callable[[bool], bytes]
    document: Callable[[LoadedModel | None], bytes]
