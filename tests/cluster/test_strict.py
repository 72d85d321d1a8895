"""A strict installation by `helm install --wait --atomic`, its first model, and its load."""

import json

from fraudops.cluster.pods import CONTAINER
from tests.cluster.release import Release
from tests.cluster.strict import ATOMIC, install
from tests.support.figures import Figures

WITHOUT_A_KEY = """
import http.client
service = http.client.HTTPConnection("127.0.0.1", 8000, timeout=10)
service.request("POST", "/predict", b"{}", {"Content-Type": "application/json"})
print(service.getresponse().status)
"""
CHANGED = ("--set", "inference.podAnnotations.changed=yes")


def test_the_installation_is_ready_before_its_first_model(strict: Release) -> None:
    """`helm install --atomic` has succeeded: the fixture ran it."""
    status = strict.status()
    assert status["serving"] is None
    assert status["well"]
    assert len(status["pods"]) == 2
    assert all(pod["ready"] and pod["version"] is None for pod in status["pods"])
    # A second time it changes nothing, with or without a model.
    before = strict.pods()
    install(strict, ATOMIC)
    assert strict.pods() == before


def test_the_policies_refuse_a_first_model_without_a_requester(strict: Release) -> None:
    refused = strict.answer(
        *("create", "job", "first-model", f"--from=cronjob/{strict.name}-pipeline"),
        "--dry-run=server",
    )
    assert "ValidatingAdmissionPolicy" in refused, refused


def test_the_first_model_serves_and_every_answer_is_audited(strict: Release) -> None:
    done = strict.fraudops("pipeline", "--on-cluster", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert strict.agreed()[1] == 1
    with strict.traffic(rate=50) as seen:
        pass
    assert seen.failures == []
    assert seen.ids
    strict.assert_all_audited(seen.ids)
    shown = json.loads(strict.fraudops("promotions", "--on-cluster", "--json").stdout)
    assert [row["authenticated"] for row in shown["promotions"]] == [True]


def test_only_a_caller_with_a_key_is_answered(strict: Release) -> None:
    pod = f"deployment/{strict.name}-inference"
    ask = ("exec", pod, "-c", CONTAINER, "--", "python", "-c", WITHOUT_A_KEY)
    assert strict.kubectl(*ask).strip() == "401"
    # Its own key is in the values.
    assert "its audit row is in PostgreSQL" in strict.helm("test", strict.name, "--logs")


def test_an_upgrade_and_a_helm_rollback_under_load_lose_nothing(
    strict: Release, figures: Figures
) -> None:
    """`helm upgrade --atomic` and `helm rollback` each replace every pod of the service."""
    history = json.loads(strict.helm("history", strict.name, "--output=json"))
    before, pods = strict.agreed(), set(strict.pods())
    with strict.traffic(rate=50) as seen:
        install(strict, (*ATOMIC, *CHANGED))
        upgraded = set(strict.pods())
        strict.roll_back_to(history[-1]["revision"])
    assert not pods & upgraded
    assert not upgraded & set(strict.pods())
    assert seen.failures == []
    strict.assert_all_audited(seen.ids)
    assert strict.agreed() == before
    figures.note(
        "strict profile: helm upgrade --atomic and helm rollback under load",
        f"{seen.answered} requests, failed: {len(seen.failures)}; audited rows lost: 0",
    )
