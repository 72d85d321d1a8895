"""Mounts of the values give no container a key, a token, or a folder that another one writes."""

import json
from typing import Any

import pytest

from tests.chart.extensions import nested
from tests.chart.rendering import Variant, containers, pods, refusal, render

SCORING = ("data.source=volume", "bootstrap.enabled=true", "postgresql.secretAs=file")
EMPTY, READ_ONLY = {"emptyDir": {"sizeLimit": "1Mi"}}, {"readOnly": True}


def cache(path: str, volume: dict[str, Any], mount: dict[str, Any]) -> str:
    """Return values that mount a folder into the containers of a component."""
    return json.dumps(
        nested(
            path,
            {
                "extraVolumes": [{"name": "cache", **volume}],
                "extraVolumeMounts": [{"name": "cache", "mountPath": "/cache", **mount}],
            },
        )
    )


def test_a_folder_of_a_site_adds_itself_and_no_other_mount() -> None:
    """tests/chart/test_keys.py holds what each container mounts without it."""
    mounts = [
        {
            label: [mount["name"] for mount in container.get("volumeMounts", [])]
            for label, _, container in containers(render(Variant(settings=SCORING, values=values)))
            if label.startswith("CronJob")
        }
        for values in ("", cache("jobs", EMPTY, READ_ONLY))
    ]
    assert mounts[1] == {label: [*names, "cache"] for label, names in mounts[0].items()}


def test_no_value_mounts_a_volume_of_the_chart_that_holds_a_key_or_a_token() -> None:
    volumes = {
        volume["name"]
        for _, template in pods(render(Variant(settings=SCORING)))
        for volume in template["spec"].get("volumes", [])
        if '"secret"' in json.dumps(volume) or "serviceAccountToken" in json.dumps(volume)
    }
    assert {"api-token", "verdict-key"} <= volumes
    paths = (
        "jobs.extraVolumeMounts",
        "jobs.train.pod.extraVolumeMounts",
        "inference.extraContainers",
        "bootstrap.pod.extraInitContainers",
    )
    for name in volumes:
        mount = {"name": name, "mountPath": "/t", "readOnly": True}
        for path in paths:
            container = {"name": "own", "image": "own:1", "volumeMounts": [mount]}
            entry = mount if path.endswith("Mounts") else container
            message = refusal(values=json.dumps(nested(path, [entry])))
            assert f'{path}: the volume "{name}" is the chart\'s' in message


@pytest.mark.parametrize("path", ["jobs.pipeline.pod", "jobs.promote.pod", "bootstrap.pod"])
def test_a_folder_that_steps_could_write_is_refused(path: str) -> None:
    message = refusal(*SCORING, values=cache(path, EMPTY, {}))
    assert f"{path}: the steps of this Job may share no writable folder" in message


def test_one_step_may_write_and_steps_may_read() -> None:
    assert render(Variant(values=cache("jobs.train.pod", EMPTY, {})))
    # Without a waiver the promotion has no step before it.
    alone = ("signing.waivers=forbidden",)
    assert render(Variant(settings=alone, values=cache("jobs.promote.pod", EMPTY, {})))
    for values in (
        cache("jobs", EMPTY, READ_ONLY),
        # The kubelet mounts files of a ConfigMap read-only.
        cache("jobs", {"configMap": {"name": "krb5"}}, {}),
    ):
        manifests = render(Variant(values=values))
        for name in ("pipeline", "promote"):
            (spec,) = [t["spec"] for title, t in pods(manifests) if title.endswith(f"-{name}")]
            steps = [*spec["initContainers"], *spec["containers"]]
            assert all("/cache" in str(step["volumeMounts"]) for step in steps)
