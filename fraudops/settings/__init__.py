"""Settings of every program, read from environment variables.

Each program builds its settings once, in `main()`. They are frozen. A variable that begins with
`FRAUDOPS_` and that no program reads is refused.
"""

from fraudops.settings.audit import AuditSettings, RetentionSettings
from fraudops.settings.groups import (
    ClusterSettings,
    DriftSettings,
    GateLimits,
    PromotionSettings,
    SigningSettings,
    VerificationSettings,
)
from fraudops.settings.programs import (
    COMMAND_LINE,
    PREFIX,
    PROGRAMS,
    BundleJobSettings,
    ClusterJobSettings,
    DriftJobSettings,
    InferenceSettings,
    ProgramSettings,
    PromoteJobSettings,
    RetentionJobSettings,
    ShipperSettings,
    ValidateJobSettings,
    known_variables,
)
from fraudops.settings.serving import ClientAuthSettings, HttpSettings

__all__ = [
    "COMMAND_LINE",
    "PREFIX",
    "PROGRAMS",
    "AuditSettings",
    "BundleJobSettings",
    "ClientAuthSettings",
    "ClusterJobSettings",
    "ClusterSettings",
    "DriftJobSettings",
    "DriftSettings",
    "GateLimits",
    "HttpSettings",
    "InferenceSettings",
    "ProgramSettings",
    "PromoteJobSettings",
    "PromotionSettings",
    "RetentionJobSettings",
    "RetentionSettings",
    "ShipperSettings",
    "SigningSettings",
    "ValidateJobSettings",
    "VerificationSettings",
    "known_variables",
]
