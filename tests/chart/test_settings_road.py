"""Every setting on its way from values.yaml through the ConfigMap to the settings class."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from fraudops.settings import (
    PREFIX,
    PROGRAMS,
    DriftJobSettings,
    InferenceSettings,
    ProgramSettings,
    PromoteJobSettings,
    RetentionJobSettings,
    ShipperSettings,
    ValidateJobSettings,
    known_variables,
)
from jobs.settings import Setting, settings_of
from tests.chart.rendering import Manifest, Variant, containers, environment, refusal, render

# The settings of the program in each container.
RUNS: dict[str, type[ProgramSettings]] = {
    "inference": InferenceSettings,
    "shipper": ShipperSettings,
    "validate": ValidateJobSettings,
    "promote": PromoteJobSettings,
    "reconcile": PromoteJobSettings,
    "drift": DriftJobSettings,
    "retention": RetentionJobSettings,
}
# The chart sets these itself or takes them from a Secret or the pod; no value sets them.
SET_BY_CHART = {
    *(
        "FRAUDOPS_STATE",
        "FRAUDOPS_HOST",
        "FRAUDOPS_PORT",
        "FRAUDOPS_ADMIN_PORT",
        "FRAUDOPS_CLUSTER__RELEASE",
        "FRAUDOPS_CLUSTER__NAMESPACE",
    ),
    *(
        "FRAUDOPS_POD",
        "FRAUDOPS_ADMIN_TOKEN",
        "FRAUDOPS_AUDIT__KEY",
        "FRAUDOPS_REQUEST_ID",
        "FRAUDOPS_ROLLOUT",
        "DATABASE_URL",
    ),
    "FRAUDOPS_SPOOL_VOLUME",
    *(
        "FRAUDOPS_PRODUCTION_URL",
        "FRAUDOPS_SIGNING__PUBLIC_KEYS",
        "FRAUDOPS_SIGNING__VERDICT_KEY",
        "FRAUDOPS_SIGNING__WAIVER_KEY",
    ),
    "FRAUDOPS_CLIENT_AUTH__KEYS_FILE",
    "FRAUDOPS_CLIENT_AUTH__JWKS_FILE",
    "FRAUDOPS_REQUESTED_BY",
    "FRAUDOPS_JOB",
}
AUDIT_KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
# The settings whose value has another name.
VALUE_PATHS = {
    "FRAUDOPS_MODEL_NAME": "modelName",
    "FRAUDOPS_LOG_LEVEL": "logLevel",
    "FRAUDOPS_ENVIRONMENT": "environment",
    "FRAUDOPS_RETENTION__EXPORT": "retention.exportClaim",
    "MLFLOW_TRACKING_URI": "mlflow.url",
    "FRAUDOPS_PROMOTION__AUTHENTICATED": "promotion.policy.enabled",
    "FRAUDOPS_PROMOTION__APPROVAL_REQUIRED": "promotion.approval.required",
    "FRAUDOPS_PROMOTION__APPROVAL_SECONDS": "promotion.approval.expirySeconds",
}
OTHER_VALUES = {
    "FRAUDOPS_SIGNING__WAIVERS": "forbidden",
    "FRAUDOPS_LOG_LEVEL": "debug",
    "FRAUDOPS_ENVIRONMENT": "development",
    "FRAUDOPS_AUDIT__DURABILITY": "commit",
    "FRAUDOPS_AUDIT__FEATURES": "sealed",
    "FRAUDOPS_AUDIT__FSYNC": "always",
    "MLFLOW_TRACKING_URI": "https://mlflow.example.com",
    "FRAUDOPS_RETENTION__EXPORT": "history",
    "FRAUDOPS_MODEL_NAME": "another",
    "FRAUDOPS_PROMOTION__AUTHENTICATED": "true",
    "FRAUDOPS_PROMOTION__APPROVAL_REQUIRED": "true",
    "FRAUDOPS_READY_WITHOUT_MODEL": "false",
    "FRAUDOPS_RETENTION__LABEL_DAYS": "90",
    "FRAUDOPS_HTTP__ACCESS_LOG": "true",
    "FRAUDOPS_HTTP__ROOT_PATH": "/fraud",
    "FRAUDOPS_CLIENT_AUTH__MODE": "required",
    "FRAUDOPS_CLIENT_AUTH__RATE_PER_SECOND": "200",
    "FRAUDOPS_CLIENT_AUTH__JWT_ISSUER": "https://login.example.com",
    "FRAUDOPS_CLIENT_AUTH__JWT_AUDIENCE": "fraud",
    "FRAUDOPS_CLIENT_AUTH__JWT_SCOPE_CLAIM": "scp",
    "FRAUDOPS_CLIENT_AUTH__JWT_CLIENT_CLAIM": "azp",
    "FRAUDOPS_CLIENT_AUTH__JWKS_URL": "https://login.example.com/jwks.json",
}
SETTINGS = {setting.variable: setting for program in PROGRAMS for setting in settings_of(program)}


def value_path(variable: str) -> str:
    """Return the value of a variable: `FRAUDOPS_GATES__ROC_AUC` is set by `gates.rocAuc`.

    A setting without a group belongs to the inference service.
    """
    if variable in VALUE_PATHS:
        return VALUE_PATHS[variable]
    group, _, name = variable.removeprefix(PREFIX).lower().rpartition("__")
    path = f"{group or 'inference'}.{name}"
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), path)


def other_value(setting: Setting) -> str:
    """Return a value that the setting accepts and that is not its default."""
    if setting.variable in OTHER_VALUES:
        return OTHER_VALUES[setting.variable]
    if setting.type.startswith("integer"):
        return str(setting.default + 1)
    return str(setting.default / 2)


def settings_of_container(
    manifests: list[Manifest], name: str, monkeypatch: pytest.MonkeyPatch
) -> ProgramSettings:
    for variable in known_variables() | {"DATABASE_URL", "MLFLOW_TRACKING_URI"}:
        monkeypatch.delenv(variable, raising=False)
    container = next(
        container for _, _, container in containers(manifests) if container["name"] == name
    )
    for variable, value in environment(manifests, container).items():
        monkeypatch.setenv(variable, AUDIT_KEY if variable == "FRAUDOPS_AUDIT__KEY" else value)
    return RUNS[name].from_environment()


def leaves(model: BaseModel, prefix: str = PREFIX) -> Iterator[tuple[str, Any]]:
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, f"{prefix}{name.upper()}__")
        else:
            yield str(field.validation_alias or f"{prefix}{name.upper()}"), value


def listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def test_every_program_with_settings_runs_in_some_container() -> None:
    assert set(RUNS.values()) == set(PROGRAMS)
    assert RUNS.keys() <= {container["name"] for _, _, container in containers(render())}


def test_every_variable_of_every_container_is_a_known_one(manifests: list[Manifest]) -> None:
    for label, _, container in containers(manifests):
        unknown = {
            name for name in environment(manifests, container) if name.startswith(PREFIX)
        } - known_variables()
        assert unknown == set(), f"{label}: the program would refuse to start"


@pytest.mark.parametrize("name", RUNS)
def test_the_charts_defaults_are_the_programs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = dict(leaves(settings_of_container(render(), name, monkeypatch)))
    differing = {
        variable
        for variable, value in values.items()
        # A tuple is a list in the catalogue.
        if SETTINGS[variable].default not in (value, str(value), listed(value))
    }
    # An installation is production by default, a program on one machine is not.
    # Its service is ready before the first promotion, so that `helm install --wait` ends.
    assert differing <= SET_BY_CHART | {
        "FRAUDOPS_ENVIRONMENT",
        "FRAUDOPS_READY_WITHOUT_MODEL",
        "MLFLOW_TRACKING_URI",
    }


@pytest.mark.parametrize("name", RUNS)
def test_every_setting_can_be_reached_from_values(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dict(leaves(settings_of_container(render(), name, monkeypatch)))
    reachable = [SETTINGS[variable] for variable in before if variable not in SET_BY_CHART]
    arguments = [
        f"{value_path(setting.variable)}={other_value(setting)}"
        for setting in reachable
        if not setting.type.startswith("JSON")
    ]
    arguments += [
        "audit.existingSecret=keys",
        "mlflow.enabled=false",
        "mlflow.url=https://mlflow.example.com",
        "drift.featureThresholds.Amount=0.4",
        "promotion.strategies={broadcast}",
        "promotion.policy.automation={installer}",
        "http.corsOrigins={https://desk.example.com}",
    ]
    manifests = render(Variant(settings=tuple(arguments)))
    after = dict(leaves(settings_of_container(manifests, name, monkeypatch)))
    assert {variable for variable in before if before[variable] == after[variable]} <= SET_BY_CHART


def test_the_feature_thresholds_are_passed_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of_container(
        render(Variant(settings=("drift.featureThresholds.Amount=0.4",))), "drift", monkeypatch
    )
    assert isinstance(settings, DriftJobSettings)
    assert settings.drift.feature_thresholds == {"Amount": 0.4}


def test_the_feature_key_reaches_only_the_service_and_drift() -> None:
    manifests = render(
        Variant(
            settings=("audit.features=sealed", "audit.existingSecret=keys", "audit.secretKey=mine")
        )
    )
    entries = {
        container["name"]: entry
        for _, _, container in containers(manifests)
        for entry in container.get("env", [])
        if "AUDIT__KEY" in entry["name"]
    }
    assert entries.keys() == {"inference", "drift"}
    sources = [entry["valueFrom"]["secretKeyRef"] for entry in entries.values()]
    assert sources == [{"name": "keys", "key": "mine"}] * 2
    assert not any(
        "FRAUDOPS_AUDIT__KEY" in environment(render(), container)
        for _, _, container in containers(render())
    )
    assert "audit.existingSecret" in refusal("audit.features=hashed")


def test_no_values_switch_the_audit_off() -> None:
    assert "audit" in refusal("audit.durability=off")


def test_each_setting_is_one_line_of_a_config_map() -> None:
    maps = [manifest["data"] for manifest in render() if manifest["kind"] == "ConfigMap"]
    for data in maps:
        assert all(isinstance(value, str) for value in data.values())
        # Go prints a large whole number from YAML as a float with an exponent.
        assert not any(re.fullmatch(r"-?[0-9.]+e\+[0-9]+", value) for value in data.values())
    assert json.loads(maps[-1].get("FRAUDOPS_DRIFT__FEATURE_THRESHOLDS", "{}")) == {}
