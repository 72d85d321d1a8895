import importlib
import json
import pkgutil
from collections.abc import Iterator, Mapping

import click
import pytest
from click.testing import CliRunner

import jobs
from fraudops.errors import SettingsError
from fraudops.settings import (
    PREFIX,
    PROGRAMS,
    DriftJobSettings,
    InferenceSettings,
    ProgramSettings,
    PromoteJobSettings,
    ShipperSettings,
    known_variables,
)
from jobs.settings import Setting, catalogue, command, settings_of

KEYS = [
    "Y29ycmVjdC1ob3JzZS1jb3JyZWN0LWhvcnNlLWNvcnI=",
    "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
]
SECRET = "postgresql://audit:correct-horse@127.0.0.1:5432/audit"
GROUPS = {"audit", "client_auth", "drift", "gates", "http"}
BY_NAME = {setting.variable: setting for setting in catalogue()}
# A value that each variable accepts and that is not its default.
OTHER = {
    "FRAUDOPS_PROMOTION__STRATEGIES": '["broadcast"]',
    "FRAUDOPS_SIGNING__WAIVERS": "forbidden",
    "FRAUDOPS_AUDIT__DURABILITY": "memory",
    "FRAUDOPS_AUDIT__FEATURES": "hashed",
    "FRAUDOPS_AUDIT__FSYNC": "always",
    "FRAUDOPS_AUDIT__KEY": KEYS[1],
    "FRAUDOPS_DRIFT__FEATURE_THRESHOLDS": '{"Amount": 0.4}',
    "FRAUDOPS_ENVIRONMENT": "production",
    "FRAUDOPS_LOG_LEVEL": "debug",
    "FRAUDOPS_RECORD_POLL_SECONDS": "7.5",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:5999",
    "FRAUDOPS_HTTP__ROOT_PATH": "/fraud/v1",
    "FRAUDOPS_HTTP__CORS_ORIGINS": '["https://desk.example.com"]',
    "FRAUDOPS_CLIENT_AUTH__MODE": "required",
    "FRAUDOPS_CLIENT_AUTH__RATE_PER_SECOND": "200",
    "FRAUDOPS_CLIENT_AUTH__JWKS_URL": "https://login.example.com/jwks.json",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment with only the variables that a program requires."""
    for name in BY_NAME:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABASE_URL", SECRET)
    monkeypatch.setenv("FRAUDOPS_AUDIT__KEY", KEYS[0])
    # Without these, authentication of clients needs more than one variable.
    for name in ("KEYS_FILE", "JWT_ISSUER", "JWT_AUDIENCE"):
        monkeypatch.setenv(f"FRAUDOPS_CLIENT_AUTH__{name}", "given")
    return monkeypatch


def leaves(settings: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and name in GROUPS:
            yield from leaves(value, f"{name}.")
        else:
            yield prefix + name, value


def other_value(setting: Setting) -> str:
    if setting.variable in OTHER:
        return OTHER[setting.variable]
    if setting.type.startswith("integer"):
        return str((setting.default or 9000) + 1)
    if setting.type.startswith("number"):
        return str(setting.default / 2)  # a share may not exceed 1
    if setting.type.startswith("boolean"):
        return str(not setting.default)
    return "another"


def read_by(program: type[ProgramSettings]) -> list[Setting]:
    name = program.__name__.removesuffix("Settings").removesuffix("Job").lower()
    return [setting for setting in catalogue() if name in setting.programs]


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_variable_reaches_exactly_one_setting_of_its_program(
    program: type[ProgramSettings], environment: pytest.MonkeyPatch
) -> None:
    before = dict(leaves(program.from_environment().model_dump()))
    reached = set()
    for setting in read_by(program):
        with environment.context() as changed:
            changed.setenv(setting.variable, other_value(setting))
            after = dict(leaves(program.from_environment().model_dump()))
        differing = {name for name in before if before[name] != after[name]}
        assert len(differing) == 1, setting.variable
        reached |= differing
    assert reached == before.keys()


def test_the_catalogue_lists_every_known_variable_and_no_other() -> None:
    assert {name for name in BY_NAME if name.startswith(PREFIX)} == known_variables()


def test_every_setting_has_a_description_that_is_a_sentence() -> None:
    assert [
        name for name, setting in BY_NAME.items() if not setting.description.endswith(".")
    ] == []


def test_a_variable_that_two_programs_read_means_the_same_in_both() -> None:
    for variable in BY_NAME:
        shapes = {
            (s.type, str(s.default), s.description)
            for program in PROGRAMS
            for s in settings_of(program)
            if s.variable == variable
        }
        assert len(shapes) <= 1, variable


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_unknown_name_is_refused_with_its_nearest_neighbour(
    program: type[ProgramSettings], environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("FRAUDOPS_WORKRES", "3")
    with pytest.raises(
        SettingsError,
        match=r"unknown setting FRAUDOPS_WORKRES \(did you mean FRAUDOPS_WORKERS\?\);"
        r" `fraudops settings` lists",
    ):
        program.from_environment()


def test_a_second_name_in_small_letters_does_not_win(environment: pytest.MonkeyPatch) -> None:
    """The policy of the cluster cannot list each way to write a name."""
    environment.setenv("FRAUDOPS_PROMOTION__APPROVAL_REQUIRED", "true")
    environment.setenv("fraudops_promotion__approval_required", "false")
    with pytest.raises(SettingsError, match="did you mean FRAUDOPS_PROMOTION__APPROVAL_REQUIRED"):
        PromoteJobSettings.from_environment()


def test_the_strategies_always_have_broadcast(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("FRAUDOPS_PROMOTION__STRATEGIES", '["broadcast"]')
    assert PromoteJobSettings.from_environment().promotion.strategies == ("broadcast",)
    environment.setenv("FRAUDOPS_PROMOTION__STRATEGIES", '["rollout"]')
    with pytest.raises(SettingsError, match=r"PROMOTION__STRATEGIES: .*must have broadcast"):
        PromoteJobSettings.from_environment()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"MODE": "required"}, "mode required needs keys_file, jwks_file or jwks_url"),
        ({"MODE": "optional"}, "mode optional needs keys_file, jwks_file or jwks_url"),
        ({"MODE": "off", "KEYS_FILE": "keys.json"}, "'disabled', 'optional' or 'required'"),
        ({"JWKS_FILE": "jwks.json"}, "a JWKS needs jwt_issuer and jwt_audience"),
        ({"JWKS_URL": "https://a.example/j", "JWT_ISSUER": "i"}, "needs jwt_issuer and jwt_aud"),
        ({"JWKS_FILE": "j", "JWKS_URL": "https://a.example/j"}, "either jwks_file or jwks_url"),
        ({"JWKS_URL": "http://a.example/j"}, "must begin with https://"),
        ({"JWKS_URL": "http://127.0.0.1.example/j"}, "must begin with https://"),
        ({"JWKS_URL": "https:///j"}, "must begin with https://"),
        ({"JWKS_URL": "https://u:correct-h@rse@a/j"}, "JWKS_URL is not a valid URL"),
        ({"RATE_PER_SECOND": "0"}, "greater than 0"),
    ],
)
def test_an_authentication_that_cannot_work_is_refused(
    environment: pytest.MonkeyPatch, changes: dict[str, str], complaint: str
) -> None:
    for name in ("KEYS_FILE", "JWT_ISSUER", "JWT_AUDIENCE"):
        environment.delenv(f"FRAUDOPS_CLIENT_AUTH__{name}")
    for name, value in changes.items():
        environment.setenv(f"FRAUDOPS_CLIENT_AUTH__{name}", value)
    with pytest.raises(SettingsError) as refused:
        InferenceSettings.from_environment()
    assert complaint in str(refused.value)
    assert "correct" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["https://a.example/j", "http://localhost:9/j", "http://127.0.0.1/j", "http://[::1]/j"]
)
def test_a_jwks_comes_by_https_or_from_this_machine(
    environment: pytest.MonkeyPatch, url: str
) -> None:
    environment.setenv("FRAUDOPS_CLIENT_AUTH__JWKS_URL", url)
    assert InferenceSettings.from_environment().client_auth.jwks_url == url


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ROOT_PATH", "fraud"),
        ("ROOT_PATH", "/fraud/"),
        ("ROOT_PATH", "/a b"),
        ("CORS_ORIGINS", '["*"]'),
        ("CORS_ORIGINS", '["https://desk.example.com/"]'),
        ("CORS_ORIGINS", '["null"]'),
        ("MAX_CONNECTIONS", "63"),
        ("BODY_BYTES_IN_FLIGHT", str((32 << 20) - 1)),
        ("IDLE_SECONDS", "0"),
    ],
)
def test_a_limit_of_http_that_cannot_be_meant_is_refused(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environment.setenv(f"FRAUDOPS_HTTP__{name}", value)
    with pytest.raises(SettingsError, match=f"FRAUDOPS_HTTP__{name}"):
        InferenceSettings.from_environment()


def test_a_setting_of_another_program_is_not_refused(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("FRAUDOPS_WORKERS", "3")
    assert DriftJobSettings.from_environment().drift.minimum_rows == 500


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FRAUDOPS_PORT", "0"),
        ("FRAUDOPS_PORT", "tcp://10.0.0.1:80"),
        ("FRAUDOPS_AUDIT__FSYNC", "sometimes"),
    ],
)
def test_a_bad_value_is_refused_by_name_and_never_echoed(
    variable: str, value: str, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv(variable, value)
    with pytest.raises(SettingsError) as refusal:
        InferenceSettings.from_environment()
    assert str(refusal.value).startswith(variable + ": ")
    assert len(value) < 3 or value not in str(refusal.value)


def test_a_missing_database_is_named(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("DATABASE_URL")
    with pytest.raises(SettingsError, match="DATABASE_URL"):
        ShipperSettings.from_environment()


def test_settings_are_frozen() -> None:
    settings = InferenceSettings.from_environment()
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_the_command_shows_no_value_of_the_environment(
    arguments: list[str], environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("FRAUDOPS_ADMIN_TOKEN", "correct-horse-too")
    environment.setenv("FRAUDOPS_POD", "pod-of-mine")
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0
    assert not any(value in result.output for value in ("correct-horse", "pod-of-mine", KEYS[0]))
    assert "FRAUDOPS_ADMIN_TOKEN" in result.output


def test_a_secret_is_not_in_the_settings_text(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("FRAUDOPS_ADMIN_TOKEN", "correct-horse-too")
    for program in PROGRAMS:
        assert not any(
            value in repr(program.from_environment()) for value in ("correct-horse", KEYS[0])
        )
    assert {name for name, setting in BY_NAME.items() if setting.secret} == {
        "DATABASE_URL",
        "FRAUDOPS_ADMIN_TOKEN",
        "FRAUDOPS_AUDIT__KEY",
    }


def test_the_command_lists_rather_than_refuses_when_a_name_is_unknown(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("FRAUDOPS_PROT", "8001")
    result = CliRunner().invoke(command, ["--json"])
    assert result.exit_code == 0
    listed = json.loads(result.stdout)
    assert listed["unknown"] == ["FRAUDOPS_PROT"]
    assert [s["set"] for s in listed["settings"] if s["variable"] == "DATABASE_URL"] == [True]


def test_every_variable_that_a_flag_reads_is_in_the_catalogue() -> None:
    modules = [
        importlib.import_module(f"jobs.{module.name}")
        for module in pkgutil.iter_modules(jobs.__path__)
    ]
    commands = [module.command for module in modules if hasattr(module, "command")]
    options = [option for each in commands for option in _options(each)]
    read = {str(option.envvar) for option in options if option.envvar}
    assert read <= BY_NAME.keys()
    assert {"FRAUDOPS_STATE"} <= read or not options


def _options(command: click.Command) -> Iterator[click.Parameter]:
    yield from command.params
    for child in getattr(command, "commands", {}).values():
        yield from _options(child)
