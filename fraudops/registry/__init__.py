"""The model registry: a client of MLflow's REST API, with httpx.

No other module calls the registry, except that fraudops.registry.tracking logs training runs with
MLflow's own client. Importing that client takes seconds and 160 MB of memory.
"""

from fraudops.registry.bundles import verified_bundle
from fraudops.registry.model_version import (
    TAG_DIGEST,
    TAG_REQUEST,
    TAG_SAMPLE,
    TAG_SCHEMA_FINGERPRINT,
    TAG_VERDICT,
    ModelVersion,
)
from fraudops.registry.versions import LATEST, Registry

__all__ = [
    "LATEST",
    "TAG_DIGEST",
    "TAG_REQUEST",
    "TAG_SAMPLE",
    "TAG_SCHEMA_FINGERPRINT",
    "TAG_VERDICT",
    "ModelVersion",
    "Registry",
    "verified_bundle",
]
