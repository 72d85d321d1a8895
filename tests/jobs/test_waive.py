"""`waive`, the step before a promotion that signs a waiver, on a real MLflow server."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fraudops.errors import SignatureRefusedError
from fraudops.registry import TAG_DIGEST, Registry
from fraudops.signing.key_files import ensure_key
from fraudops.signing.keys import PublicKeys
from fraudops.signing.waivers import check_waiver
from fraudops.state import State
from jobs import waive
from tests.support.commands import Caller, CommandResult
from tests.support.mlflow_runs import new_run

DIGEST = "5" * 64
_numbers = itertools.count()


class WaiveStep:
    """The program with the key for waivers, and a registry with one version."""

    def __init__(self, caller: Caller, state: State, url: str) -> None:
        self.state, self.out, self._caller = state, state.root / "waiver.json", caller
        model = f"waive-{next(_numbers)}"
        self.version = Registry(url, model).create_version(new_run(url), {TAG_DIGEST: DIGEST})
        self.environment = {
            "MLFLOW_TRACKING_URI": url,
            "FRAUDOPS_MODEL_NAME": model,
            "FRAUDOPS_STATE": str(state.root),
            "FRAUDOPS_WAIVER": str(self.out),
            "FRAUDOPS_REQUEST_ID": "job-1",
        }

    def run(self, *arguments: str, **environment: str) -> CommandResult:
        return self._caller("--version", "latest", *arguments, **(self.environment | environment))


@pytest.fixture
def step(
    tmp_path: Path,
    mlflow_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> WaiveStep:
    state = State.at(tmp_path)
    ensure_key(state.verdict_key, state.public_keys, "verdict")
    ensure_key(state.waiver_key, state.public_keys, "waiver")
    return WaiveStep(Caller("waive", waive.command, monkeypatch, capsys), state, mlflow_url)


FORCED = ("--force", "--reason", "the bank asks for it")


def test_a_waiver_is_signed_for_the_bundle_and_the_request_of_the_promotion(
    step: WaiveStep,
) -> None:
    # The step gets the arguments of `promote`, of which it reads only its own.
    done = step.run("--strategy", "rollout", *FORCED, "--if-epoch", "4", "--json")
    assert done.returncode == 0, done.stderr
    signed, keys, now = step.out.read_text(), PublicKeys.read(step.state.public_keys), _now()
    waiver = check_waiver(signed, step.version, DIGEST, "job-1", now, keys)
    assert (waiver.reason, waiver.request) == ("the bank asks for it", "job-1")
    assert now < waiver.expires_at <= now + timedelta(hours=24)
    for request, at in (("job-2", now), ("job-1", now + timedelta(hours=25))):
        with pytest.raises(SignatureRefusedError):
            check_waiver(signed, step.version, DIGEST, request, at, keys)


def test_without_force_nothing_is_signed_and_nothing_is_needed(step: WaiveStep) -> None:
    step.state.waiver_key.unlink()
    done = step.run("--strategy", "rollout", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert (done.returncode, step.out.exists()) == (0, False), done.stderr


Lacking = Callable[[WaiveStep], dict[str, str]]


def _without_key(step: WaiveStep) -> dict[str, str]:
    step.state.waiver_key.unlink()
    return {}


@pytest.mark.parametrize(
    ("arguments", "lacking", "code", "message"),
    [
        (FORCED[:1], lambda _: {}, 64, "--force needs --reason TEXT"),
        (FORCED, lambda _: {"FRAUDOPS_SIGNING__WAIVERS": "forbidden"}, 65, "forbids waivers"),
        (FORCED, _without_key, 64, "cannot be used: it cannot be read"),
        (FORCED, lambda _: {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, 75, "does not answer"),
    ],
)
def test_a_waiver_that_cannot_be_signed_ends_the_step_with_the_reason(
    step: WaiveStep, arguments: tuple[str, ...], lacking: Lacking, code: int, message: str
) -> None:
    done = step.run(*arguments, **lacking(step))
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert not step.out.exists()


def test_a_waiver_without_a_request_is_refused(step: WaiveStep) -> None:
    del step.environment["FRAUDOPS_REQUEST_ID"]
    done = step.run(*FORCED)
    assert (done.returncode, step.out.exists()) == (64, False)
    assert "fraudops promote --force --reason TEXT" in done.stderr


def _now() -> datetime:
    return datetime.now(UTC)
