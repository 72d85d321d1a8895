"""OpenAPI description of the calls that are answered below FastAPI's router.

It contains the schema of the model that is served.
"""

from typing import Annotated, Any

import msgspec

from services.inference.http.endpoints import ReloadRequest
from services.inference.http.problems import CONTENT_TYPE, Problem
from services.inference.model import LoadedModel
from services.inference.pod.status import ModelInfo, Ready, Reloaded
from services.inference.reading.labels import LABELS, LabelEntry
from services.inference.reading.rows import BATCH_ROWS, TRANSACTIONS
from services.inference.scoring import Scored, ScoredBatch

REFERENCE = "#/components/schemas/{name}"
TOKEN = {
    "type": "http",
    "scheme": "bearer",
    "description": "The admin token: FRAUDOPS_ADMIN_TOKEN.",
}


class Accepted(msgspec.Struct):
    """How many labels were taken."""

    accepted: int


class Transaction(msgspec.Struct):
    """A number for each feature of the model.

    No model is served yet: its features appear here once one is promoted.
    """


def describe(document: dict[str, Any], model: LoadedModel | None) -> dict[str, Any]:
    """Adds the four calls to what FastAPI has described."""
    transaction = model.reader.kind if model else Transaction
    rows = Annotated[list[transaction], msgspec.Meta(min_length=1, max_length=BATCH_ROWS)]  # type: ignore[valid-type]
    batch = msgspec.defstruct(
        "Transactions", [(TRANSACTIONS.key, rows)], forbid_unknown_fields=True
    )
    labels = msgspec.defstruct(
        "Labels",
        [
            (
                LABELS.key,
                Annotated[list[LabelEntry], msgspec.Meta(min_length=1, max_length=BATCH_ROWS)],
            )
        ],
    )
    kinds = (
        transaction,
        batch,
        labels,
        ReloadRequest,
        Scored,
        ScoredBatch,
        Accepted,
        Reloaded,
        Ready,
        ModelInfo,
        Problem,
    )
    _, schemas = msgspec.json.schema_components(kinds, ref_template=REFERENCE)
    # Python's ends of a text in the words of JSON Schema's regular expressions.
    schemas = msgspec.json.decode(
        msgspec.json.encode(schemas).replace(rb"\\A", b"^").replace(rb"\\Z", b"$")
    )
    schemas[transaction.__name__] |= (
        {"description": _about(model)} if model else {"additionalProperties": {"type": "number"}}
    )
    paths = {
        "/predict": _post("Score one transaction", transaction, Scored, (413, 415, 422, 503)),
        "/predict/batch": _post(
            "Score many transactions, all or none", batch, ScoredBatch, (413, 415, 422, 503)
        ),
        "/feedback": _post(
            "Say what became of transactions", labels, Accepted, (413, 415, 422, 503), status=202
        ),
        "/reload": _post(
            "Prepare, commit or drop a version in every worker",
            ReloadRequest,
            Reloaded,
            (401, 403, 409, 422, 503),
            admin=True,
        ),
        "/drain": _post(
            "Ask every client to leave, before the pod is stopped",
            None,
            Reloaded,
            (401, 403, 503),
            admin=True,
        ),
    }
    components = document.get("components", {})
    return document | {
        "paths": document["paths"] | paths,
        "components": components
        | {"schemas": components.get("schemas", {}) | schemas, "securitySchemes": {"admin": TOKEN}},
    }


def _about(model: LoadedModel) -> str:
    return (
        f"The features of {model.name} version {model.version} (schema {model.schema.name}), "
        "all of them, and nothing else but the two optional ids."
    )


def _post(
    summary: str,
    body: Any,
    answer: Any,
    errors: tuple[int, ...],
    *,
    status: int = 200,
    admin: bool = False,
) -> dict[str, Any]:
    responses = {str(status): _content("application/json", answer) | {"description": "Done"}}
    responses |= {
        str(error): _content(CONTENT_TYPE, Problem) | {"description": "Refused: see detail"}
        for error in errors
    }
    operation: dict[str, Any] = {
        "summary": summary,
        "operationId": summary.lower().replace(",", "").replace(" ", "_"),
        "tags": ["admin" if admin else "predictions"],
        "responses": responses,
    }
    if body:
        operation["requestBody"] = {"required": not admin, **_content("application/json", body)}
    return {"post": operation | ({"security": [{"admin": []}]} if admin else {})}


def _content(kind: str, struct: Any) -> dict[str, Any]:
    return {"content": {kind: {"schema": {"$ref": REFERENCE.format(name=struct.__name__)}}}}
