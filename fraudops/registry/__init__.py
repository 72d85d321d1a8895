"""The model registry, over MLflow's REST API with httpx: the only registry client (importing mlflow
costs seconds and 160 MB).
"""

from fraudops.registry.versions import (
    LATEST,
    TAG_DIGEST,
    TAG_REQUEST,
    TAG_SAMPLE,
    TAG_SCHEMA_FINGERPRINT,
    TAG_VERDICT,
    TAG_WAIVER,
    ModelVersion,
    Registry,
)

__all__ = [
    "LATEST",
    "TAG_DIGEST",
    "TAG_REQUEST",
    "TAG_SAMPLE",
    "TAG_SCHEMA_FINGERPRINT",
    "TAG_VERDICT",
    "TAG_WAIVER",
    "ModelVersion",
    "Registry",
]
