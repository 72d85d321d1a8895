"""Jobs of `--on-cluster`, and the status that Kubernetes and the pods report."""

import copy
import json
from typing import Any

import click
import pytest
from click.testing import CliRunner

from fraudops.cluster.overview import Overview, PodReport, report_of
from fraudops.cluster.runner import JobSpec, _container, _followed, job_of
from fraudops.cluster.upload import data_mount, data_name, receiver_of
from fraudops.errors import SettingsError
from fraudops.promotion.serving_record import EMPTY, ServingEntry, ServingRecord
from jobs.on_cluster import Streams, arguments_for_the_pod, on_cluster
from jobs.runner import OUTPUT_MARK, json_option, state_option

CRONJOB: dict[str, Any] = {
    "metadata": {"name": "shop-train", "uid": "u-1"},
    "spec": {
        "suspend": True,
        "jobTemplate": {
            "metadata": {"labels": {"app.kubernetes.io/component": "train"}},
            "spec": {
                "backoffLimit": 3,
                "template": {
                    "spec": {
                        "initContainers": [{"name": "fetch-data"}],
                        "containers": [
                            {
                                "name": "train",
                                "command": ["python", "-m", "jobs.train"],
                                "args": ["--prevalence", "0.002"],
                                "env": [
                                    {"name": "LOGNAME", "value": "nobody"},
                                    {"name": "FRAUDOPS_DATA", "value": "/data/cards.parquet"},
                                ],
                                "volumeMounts": [
                                    {"name": "tmp", "mountPath": "/tmp"},
                                    {"name": "data", "mountPath": "/data", "readOnly": True},
                                ],
                            }
                        ],
                        "volumes": [
                            {"name": "tmp", "emptyDir": {}},
                            {"name": "data", "persistentVolumeClaim": {"claimName": "shop-data"}},
                        ],
                    }
                },
            },
        },
    },
}
ENTRY = ServingEntry(
    epoch=4, version="7", digest="d", schema_fingerprint="s", by="job", at="2026-11-02T12:00:00Z"
)


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = job["spec"]["template"]["spec"]["containers"][0]
    return container


def test_arguments_follow_those_of_the_template_and_the_template_stays_as_it_is() -> None:
    before = copy.deepcopy(CRONJOB)
    job = job_of(
        CRONJOB, "shop-train-1", JobSpec("train", ["--seed", "8"], environment={"LOGNAME": "ada"})
    )
    assert container_of(job)["args"] == ["--prevalence", "0.002", "--seed", "8"]
    assert container_of(job)["command"] == ["python", "-m", "jobs.train"]
    assert container_of(job)["env"] == [
        {"name": "FRAUDOPS_DATA", "value": "/data/cards.parquet"},
        {"name": "LOGNAME", "value": "ada"},
    ]
    assert job["metadata"]["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "CronJob", "name": "shop-train", "uid": "u-1"}
    ]
    assert job["metadata"]["labels"] == {"app.kubernetes.io/component": "train"}
    assert before == CRONJOB


def test_the_callers_name_is_on_the_job_and_on_its_pods_instead_of_the_templates() -> None:
    template = copy.deepcopy(CRONJOB)
    pods = template["spec"]["jobTemplate"]["spec"]["template"]
    pods["metadata"] = {"annotations": {"fraudops.io/requested-by": "a controller", "kept": "x"}}
    job = job_of(template, "shop-promote-1", JobSpec("promote", requested_by="bob"))
    assert job["metadata"]["annotations"]["fraudops.io/requested-by"] == "bob"
    assert job["spec"]["template"]["metadata"]["annotations"] == {
        "fraudops.io/requested-by": "bob",
        "kept": "x",
    }
    plain = job_of(CRONJOB, "shop-train-1", JobSpec("train"))
    assert "metadata" not in plain["spec"]["template"]


def test_an_indexed_job_has_one_pod_per_requested_shard() -> None:
    template = copy.deepcopy(CRONJOB)
    template["spec"]["jobTemplate"]["spec"] |= {
        "completionMode": "Indexed",
        "completions": 1,
        "parallelism": 1,
    }
    spec = job_of(template, "shop-score-1", JobSpec("score", ["--shards", "4"], shards=4))["spec"]
    assert (spec["completions"], spec["parallelism"]) == (4, 4)
    assert job_of(template, "shop-score-2", JobSpec("score"))["spec"]["completions"] == 1


def test_a_replaced_program_gets_only_its_own_arguments() -> None:
    job = job_of(CRONJOB, "shop-rollback-1", JobSpec("train", ["--json"], module="jobs.rollback"))
    assert (container_of(job)["command"], container_of(job)["args"]) == (
        ["python", "-m", "jobs.rollback"],
        ["--json"],
    )


def steps_of(job: dict[str, Any]) -> list[tuple[str, list[str], set[str]]]:
    """Return name, arguments and variables of each container of the Job."""
    pod = job["spec"]["template"]["spec"]
    return [
        (found["name"], found.get("args", []), {entry["name"] for entry in found.get("env", [])})
        for found in [*pod.get("initContainers", []), *pod["containers"]]
    ]


PROXY = {"name": "proxy", "image": "proxy:1", "args": ["--port", "1"]}
# What the containers before the steps have in every Job of `pipeline`.
UNTOUCHED: list[tuple[str, list[str], set[str]]] = [
    ("sidecar", ["--port", "1"], set()),
    ("fetch-data", [], set()),
    ("proxy", ["--port", "1"], set()),
]


def pipeline() -> dict[str, Any]:
    """Return a CronJob with a sidecar, a proxy of the site, and a step before its program."""
    template = copy.deepcopy(CRONJOB)
    pod = template["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    arguments = {"args": ["--version", "latest"]}
    pod["initContainers"] = [
        {**PROXY, "name": "sidecar", "command": ["proxy"], "restartPolicy": "Always"},
        {"name": "fetch-data", "command": ["python", "-m", "jobs.data", "fetch"]},
        PROXY,
        {"name": "waive", "command": ["python", "-m", "jobs.waive"], **arguments},
    ]
    pod["containers"][0] = {
        "name": "promote",
        "command": ["python", "-m", "jobs.promote"],
        **arguments,
    }
    return template


def test_every_step_of_a_pipeline_gets_the_arguments() -> None:
    wanted = JobSpec("promote", ["--force"], environment={"LOGNAME": "ada"})
    latest = ["--version", "latest", "--force"]
    assert steps_of(job_of(pipeline(), "shop-promote-1", wanted)) == [
        *UNTOUCHED,
        ("waive", latest, {"LOGNAME"}),
        ("promote", latest, {"LOGNAME"}),
    ]


def test_a_replaced_program_has_no_steps_before_it() -> None:
    wanted = JobSpec("promote", ["--json"], "jobs.rollback")
    replaced = job_of(pipeline(), "shop-rollback-1", wanted)
    assert steps_of(replaced) == [*UNTOUCHED, ("promote", ["--json"], set())]


def test_every_container_but_a_sidecar_is_followed_to_its_end() -> None:
    job = job_of(pipeline(), "shop-promote-1", JobSpec("promote"))
    followed = ["fetch-data", "proxy", "waive", "promote"]
    assert _followed(job["spec"]["template"]["spec"]) == followed


def test_a_container_of_the_site_is_no_step_whatever_its_command_is() -> None:
    template = copy.deepcopy(CRONJOB)
    pod = template["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    pod["initContainers"] = [
        {"name": "short", "command": ["python", "-m"], "args": ["jobs.train"]},
        {"name": "none", "command": None},
        {"name": "exporter", "command": ["python", "-m", "jobs.export"], "restartPolicy": "Always"},
        {"name": "wait", "command": ["sh", "-c", "sleep 1"]},
    ]
    before = copy.deepcopy(pod["initContainers"])
    for wanted in (JobSpec("train", ["--seed", "8"]), JobSpec("train", module="jobs.rollback")):
        job = job_of(template, "shop-train-1", wanted)
        assert job["spec"]["template"]["spec"]["initContainers"] == before


def test_the_receiver_may_write_to_the_data_volume_and_listens_to_one_sender() -> None:
    job = receiver_of(
        CRONJOB, "shop-data-1", JobSpec("train", ["/data/x"], module="jobs.install.receive_data")
    )
    container = container_of(job)
    assert (container["stdin"], container["stdinOnce"], job["spec"]["backoffLimit"]) == (
        True,
        True,
        0,
    )
    assert [mount.get("readOnly", False) for mount in container["volumeMounts"]] == [False, False]
    assert "initContainers" not in job["spec"]["template"]["spec"]
    assert (data_mount(CRONJOB), data_name(CRONJOB)) == ("/data", "cards.parquet")


def test_a_release_without_a_data_volume_says_how_to_get_one() -> None:
    without = copy.deepcopy(CRONJOB)
    without["spec"]["jobTemplate"]["spec"]["template"]["spec"]["volumes"][1] = {
        "name": "data",
        "emptyDir": {},
    }
    with pytest.raises(SettingsError, match=r"data\.source=volume"):
        data_mount(without)


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        (["--version", "3", "--on-cluster"], ["--version", "3"]),
        (
            ["--version", "3", "--if-epoch", "4", "--force", "--reason", "now", "--on-cluster"],
            ["--version", "3", "--if-epoch", "4", "--force", "--reason", "now"],
        ),
        (["--release", "shop", "--on-cluster", "--json"], ["--json"]),
        (
            [
                "--namespace=cards",
                "--on-cluster",
                "--state",
                "/tmp/x",
                "--state=/tmp/y",
                "--set",
                "C=0.1",
            ],
            ["--set", "C=0.1"],
        ),
        (["--reason=--on-cluster is new", "--on-cluster"], ["--reason=--on-cluster is new"]),
    ],
)
def test_the_pod_gets_the_typed_arguments_except_those_about_this_machine(
    typed: list[str], sent: list[str]
) -> None:
    assert arguments_for_the_pod(typed) == sent


def test_a_command_runs_locally_unless_on_cluster_is_given() -> None:
    @on_cluster("train")
    @click.command(name="here")
    @json_option
    @state_option
    def command(as_json: bool, state: Any) -> None:
        click.echo(f"here {as_json} {state.root.name}")

    assert CliRunner().invoke(command, ["--json", "--state", "s"]).output == "here True s\n"
    astray = CliRunner().invoke(command, ["--release", "shop"])
    assert isinstance(astray.exception, SettingsError)
    assert "--on-cluster" in CliRunner().invoke(command, ["--help"]).output


def test_the_jobs_standard_output_is_printed_and_all_else_is_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    streams = Streams()
    for line in (b"reading", f"{OUTPUT_MARK}version 3".encode(), b"\xff"):
        streams.emit("pod-1", line)
    streams.end()
    assert capsys.readouterr() == ("version 3\n", "reading\n�\n")


def test_only_the_last_try_of_a_repeated_job_answers_in_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    streams = Streams(last_only=True)
    streams.emit("pod-1", f"{OUTPUT_MARK}1".encode())
    streams.emit("pod-2", f"{OUTPUT_MARK}2".encode())
    assert capsys.readouterr() == ("", "1\n")
    streams.end()
    assert capsys.readouterr() == ("2\n", "")


@pytest.mark.parametrize(
    ("status", "waits_for"),
    [
        (
            {
                "containerStatuses": [
                    {
                        "name": "train",
                        "state": {
                            "waiting": {"reason": "ErrImagePull", "message": "no such image"}
                        },
                    }
                ]
            },
            "ErrImagePull: no such image",
        ),
        (
            {
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "message": "0/1 nodes are available",
                    }
                ]
            },
            "0/1 nodes are available",
        ),
        ({}, "not started yet"),
    ],
)
def test_a_waiting_container_is_reported_in_the_words_of_kubernetes(
    status: dict[str, Any], waits_for: str
) -> None:
    assert _container({"status": status}, "train").waits_for == waits_for


def ready_answer(*workers: tuple[int, str]) -> bytes:
    return json.dumps(
        {
            "status": "ready",
            "workers": [
                {"pid": 1, "epoch": epoch, "version": version} for epoch, version in workers
            ],
        }
    ).encode()


def overview(record: ServingRecord, *pods: PodReport) -> Overview:
    return Overview("shop", "cards", record, pods)


def test_a_pod_has_the_epoch_of_its_last_worker() -> None:
    record = ServingRecord(current=ENTRY)
    level = report_of("a", True, False, ready_answer((4, "7"), (4, "7")))
    mixed = report_of("b", True, False, ready_answer((4, "7"), (3, "6")))
    leaving = report_of("c", False, True, ready_answer((3, "6")))
    status = overview(record, level, mixed, leaving)
    assert (mixed.epoch, mixed.version, status.behind, status.well) == (3, "6 and 7", ("b",), False)
    assert overview(record, level, leaving).well


def test_an_unreachable_pod_counts_as_behind_with_its_reason() -> None:
    unreachable = report_of(
        "a",
        True,
        False,
        json.dumps({"kind": "Status", "message": "error trying to reach service"}).encode(),
    )
    status = overview(ServingRecord(current=ENTRY), unreachable)
    assert (status.behind, status.well) == (("a",), False)
    assert "error trying to reach service" in str(unreachable.reason)


def test_before_the_first_promotion_no_pod_is_behind() -> None:
    waiting = report_of(
        "a",
        False,
        False,
        json.dumps(
            {"detail": "no model promoted", "workers": [{"pid": 1, "epoch": None}]}
        ).encode(),
    )
    assert (waiting.reason, waiting.version) == ("no model promoted", None)
    assert overview(EMPTY, waiting).well
    assert not overview(EMPTY).well
