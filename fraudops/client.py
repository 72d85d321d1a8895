"""A client of the inference service, for predictions and labels."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import msgspec

from fraudops.errors import SettingsError, StoreDownError
from fraudops.urls import malformed, split_url, without_credentials

T = TypeVar("T")
FAULTS_SHOWN = 5


class PredictResponse(msgspec.Struct, frozen=True):
    """The answer of POST /predict for one transaction.

    `prediction` is 1 if the probability is not below the threshold, otherwise 0.
    """

    prediction_id: str
    fraud_probability: float
    prediction: int
    model_version: str
    threshold: float


class BatchPredictResponse(msgspec.Struct, frozen=True):
    """The answer of POST /predict/batch: predictions in the order of the transactions."""

    predictions: list[PredictResponse]


class Label(msgspec.Struct, frozen=True, omit_defaults=True):
    """The true class of a transaction, for POST /feedback: 1 for fraud, 0 for a genuine one.

    Either `prediction_id` or `transaction_id` names the transaction. `labelled_at` is ISO 8601.
    """

    label: int
    labelled_at: str
    source: str
    prediction_id: str | None = None
    transaction_id: str | None = None


class ServedModelResponse(msgspec.Struct, frozen=True):
    """The part of GET /model_info that names the model. All fields are None without one."""

    version: str | None
    digest: str | None
    schema_fingerprint: str | None


class ModelInfoResponse(msgspec.Struct, frozen=True):
    """The answer of GET /model_info.

    `errors` has the key `epoch` while the pod does not serve what the serving record names.
    """

    model: ServedModelResponse
    errors: dict[str, str | None]


class InferenceClient:
    """A client with open connections, to use in a `with` block or to close.

    Thread-safe. Every call raises SettingsError when the service refuses the request, and
    StoreDownError when it is down or cannot answer now. A message names fields, never values.
    `credential` is an API key or a token.
    """

    def __init__(
        self,
        url: str,
        timeout_seconds: float = 10.0,
        connections: int = 8,
        credential: str | None = None,
    ) -> None:
        parts = split_url(url, "FRAUDOPS_URL")
        self.url = without_credentials(parts).rstrip("/")
        if credential and "@" in parts.netloc:
            # Both would be the header Authorization, and httpx sends the user.
            raise SettingsError(
                "FRAUDOPS_URL has a user, and FRAUDOPS_API_KEY is set: a request can carry one of "
                "them only; remove the other"
            )
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        headers = {"Content-Type": "application/json", **_authorization(credential)}
        try:
            self._http = httpx.Client(
                base_url=url.rstrip("/"),
                timeout=timeout_seconds,
                limits=limits,
                trust_env=False,
                headers=headers,
            )
        except (httpx.InvalidURL, ValueError):
            raise malformed("FRAUDOPS_URL") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def predict(
        self,
        features: Mapping[str, float],
        transaction_id: str | None = None,
        entity_key: str | None = None,
    ) -> PredictResponse:
        """Score one transaction. The service audits the prediction."""
        extra = {"transaction_id": transaction_id, "entity_key": entity_key}
        body = {**features, **{name: value for name, value in extra.items() if value is not None}}
        return _decoded(self._call("POST", "/predict", body), PredictResponse)

    def predict_batch(self, transactions: Sequence[Mapping[str, Any]]) -> list[PredictResponse]:
        """Score up to 10,000 transactions, and return one prediction for each, in their order.

        If the service refuses one of them, it scores none.
        """
        return _decoded(
            self._call("POST", "/predict/batch", {"transactions": list(transactions)}),
            BatchPredictResponse,
        ).predictions

    def feedback(self, labels: Sequence[Label]) -> None:
        """Send labels. Idempotent."""
        self._call("POST", "/feedback", {"labels": list(labels)})

    def ready(self) -> None:
        """Check that the service is ready to predict.

        Raises StoreDownError with the service's own reason when it is not.
        """
        self._call("GET", "/ready")

    def in_production(self) -> ServedModelResponse:
        """Return the model that the serving record names; without one, its fields are None.

        Raises StoreDownError while the pod that answers serves another one, or cannot name it.
        """
        info = _decoded(self._call("GET", "/model_info"), ModelInfoResponse)
        if "epoch" in info.errors:
            raise StoreDownError(f"a pod at {self.url} is behind: {info.errors['epoch']}")
        if info.model.version and not (info.model.digest and info.model.schema_fingerprint):
            raise StoreDownError(f"a pod at {self.url} has lost the bundle of its model")
        return info.model

    def _call(self, method: str, path: str, body: Any = None) -> bytes:
        content = None if body is None else msgspec.json.encode(body)
        try:
            response = self._http.request(method, path, content=content)
        except httpx.UnsupportedProtocol as error:
            raise SettingsError(
                "FRAUDOPS_URL is not the URL of an inference service: give it as http://HOST:PORT"
            ) from error
        except httpx.TransportError as error:
            raise StoreDownError(
                f"the inference service at {self.url} does not answer ({type(error).__name__}); "
                "`fraudops status` says why, `fraudops up` starts it"
            ) from error
        if response.is_success:
            return response.content
        raise _error(response, f"{method} {path} of {self.url}")


def _authorization(credential: str | None) -> dict[str, str]:
    """Return the header for a credential.

    Raises SettingsError for one that no header can carry. Its message does not quote it.
    """
    if not credential:
        return {}
    if not (credential.isascii() and credential.isprintable()) or " " in credential:
        raise SettingsError(
            "FRAUDOPS_API_KEY is no API key and no token: it has a space, a line end or another "
            "character that neither has"
        )
    return {"Authorization": f"Bearer {credential}"}


def _error(response: httpx.Response, call: str) -> SettingsError | StoreDownError:
    status = response.status_code
    reason = _reason(response)
    if status >= 500 or status in (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS):
        return StoreDownError(f"{call} cannot be answered now ({status}): {reason}")
    known = status != httpx.codes.UNAUTHORIZED
    remedy = "" if known else "; set FRAUDOPS_API_KEY to a key of this service"
    return SettingsError(f"{call} was refused ({status}): {reason}{remedy}")


def _reason(response: httpx.Response) -> str:
    """Return the detail or the wrong fields of an `application/problem+json` (RFC 9457)."""
    try:
        problem = msgspec.json.decode(response.content)
    except msgspec.DecodeError:
        return response.reason_phrase or "no reason given"
    if not isinstance(problem, dict):
        return response.reason_phrase or "no reason given"
    faults = problem.get("errors")
    if isinstance(faults, list) and len(faults) > 1:
        more = f"; and {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
        return "; ".join(_fault(fault) for fault in faults[:FAULTS_SHOWN]) + more
    return str(problem.get("detail") or problem.get("title") or response.reason_phrase)


def _fault(fault: Any) -> str:
    """Format an error of the service, {index, field, reason}, as `row 3: V1 must be …`."""
    if not isinstance(fault, dict):
        return "an error without a reason"
    row = f"row {fault['index']}: " if fault.get("index") is not None else ""
    return f"{row}{fault.get('field') or 'the body'} {fault.get('reason', 'is not accepted')}"


def _decoded(content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.MsgspecError as error:
        raise StoreDownError(
            f"the answer is not that of an inference service of this release ({error}): "
            "check FRAUDOPS_URL"
        ) from error
