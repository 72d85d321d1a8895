"""Trains a model, logs the run, and registers a version with its sealed bundle; ends with the
version and the next command.
"""

import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import fraudops
from fraudops import endpoints
from fraudops.model.manifest import Interval, Manifest
from fraudops.registry import TAG_DIGEST, TAG_REQUEST, TAG_SAMPLE, TAG_SCHEMA_FINGERPRINT, Registry
from fraudops.registry.tracking import RunContent, logged_run
from fraudops.settings import ProgramSettings
from fraudops.state import State
from fraudops.terminal import print_table
from jobs.on_cluster import on_cluster
from jobs.options.training import TrainingInputs, training_options
from jobs.runner import json_option, notices, output, print_json, run, state_option, where

if TYPE_CHECKING:
    from fraudops.training.trainer import TrainingResult

METRIC_TITLES = {
    "roc_auc": "ROC-AUC",
    "average_precision": "average precision",
    "recall_at_precision_0_80": "recall at precision 0.80",
    "cost_per_transaction": "cost per transaction",
    "calibration_error": "calibration error",
    "precision": "precision at the threshold",
    "recall": "recall at the threshold",
    "decision_rate": "share flagged",
}


@dataclass(frozen=True)
class Registered:
    """A version as it stands in the registry now."""

    version: str
    run_id: str
    digest: str
    manifest: Manifest


def train_and_register(
    registry: Registry, url: str, plan: TrainingInputs, request: str | None = None
) -> Registered:
    """The whole training; the version is tagged with `request`, so that another try finds it.

    Raises StoreDownError before any time is spent when the registry is away, DataError,
    RefusedError.
    """
    registry.versions()
    from fraudops import datasets
    from fraudops.schema import load_schema
    from fraudops.training.trainer import Provenance, train, write_bundle

    _say("reading the data")
    dataset = datasets.load(
        Path(plan.source).absolute() if plan.source else None,
        load_schema(plan.schema),
        plan.prevalence,
    )
    split = datasets.split(dataset, plan.settings.split, plan.settings.seed)
    if dropped := split.dropped_duplicates + split.dropped_ties:
        _say(f"{dropped:,} rows dropped: they stand in an earlier part too, or at its very end")
    if dataset.prevalence is None:
        _say("no --prevalence: the data counts as collected, and so do all figures")
    trained = train(split, plan.settings, _say)
    with tempfile.TemporaryDirectory(prefix="fraudops-train-") as folder:
        bundle = Path(folder) / "bundle"
        bundle.mkdir()
        _say("compiling, sealing and verifying the bundle")
        digest, manifest = write_bundle(
            bundle, trained, Provenance(registry.model, dataset, git_revision())
        )
        _say(f"registering with MLflow at {registry.url}")
        tags = {
            TAG_DIGEST: digest,
            TAG_SCHEMA_FINGERPRINT: manifest.schema_fingerprint,
            TAG_SAMPLE: str(dataset.sample).lower(),
        }
        tags |= {TAG_REQUEST: request} if request else {}
        with logged_run(url, registry.url, _content(trained, manifest, digest, bundle)) as run_id:
            return Registered(registry.create_version(run_id, tags), run_id, digest, manifest)


def _content(
    trained: "TrainingResult", manifest: Manifest, digest: str, bundle: Path
) -> RunContent:
    from fraudops.datasets import class_weights
    from fraudops.training.plots import draw

    test, data = trained.split.test, manifest.dataset
    facts = {
        "threshold": manifest.threshold,
        "expected_decision_rate": manifest.expected_decision_rate,
    }
    facts |= {
        "scorer_max_abs_difference": manifest.scorer.max_abs_difference,
        "scorer_flips": manifest.scorer.decision_mismatches,
    }
    described = {f"dataset_{name}": value for name, value in msgspec.structs.asdict(data).items()}
    parts = {
        f"rows_{name}": len(part)
        for name, part in (
            ("train", trained.split.train),
            ("validation", trained.split.validation),
            ("test", test),
        )
    }
    title = f"{manifest.algorithm}, test part of {len(test):,} rows ({'the packaged sample' if data.sample else data.source})"
    return RunContent(
        name=manifest.algorithm,
        parameters={
            "algorithm": manifest.algorithm,
            "scorer": manifest.scorer.kind,
            **manifest.parameters,
            **manifest.threshold_policy,
            **described,
            **parts,
        },
        metrics=facts | intervals_as_numbers(manifest.metrics),
        tags={
            TAG_DIGEST: digest,
            "mlflow.source.git.commit": manifest.git_revision,
            "mlflow.source.name": "fraudops train",
        },
        dataset_name=Path(data.source).name,
        dataset_digest=data.digest,
        pictures=draw(
            test.y,
            trained.test_probability,
            class_weights(test.y, test.prevalence),
            trained.threshold,
            title,
        ),
        bundle=bundle,
    )


def intervals_as_numbers(metrics: dict[str, Interval]) -> dict[str, float]:
    """Each metric as `name`, `name_lower` and `name_upper`."""
    named = {
        name: {"": metric.value, "_lower": metric.lower, "_upper": metric.upper}
        for name, metric in metrics.items()
    }
    return {
        name + suffix: value for name, values in named.items() for suffix, value in values.items()
    }


def git_revision() -> str:
    """The commit of the checkout that this code runs from, with `-dirty` when it has changed since;
    `unknown` outside a checkout.
    """
    folder = Path(fraudops.__file__).parent.parent
    if not (folder / ".git").exists():
        return "unknown"
    git = ["git", "-C", str(folder)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("-dirty" if changed.strip() else "")


def next_command(version: str, state: State) -> str:
    """What to type now, as it works here."""
    return f"fraudops validate --version {version}{where(state)}"


def _say(text: str) -> None:
    notices.print(f"[dim]{escape(text)}[/]")


def report(registered: Registered, model: str, console: Console = output) -> None:
    manifest = registered.manifest
    basis = (
        f"at a prevalence of {manifest.dataset.prevalence:.4%}"
        if manifest.dataset.prevalence
        else "as collected"
    )
    table = Table(
        "metric",
        "test part",
        "95 % interval",
        title=f"{manifest.algorithm}, {basis}",
        title_justify="left",
    )
    for name, title in METRIC_TITLES.items():
        metric = manifest.metrics[name]
        table.add_row(title, f"{metric.value:.4f}", f"{metric.lower:.4f} to {metric.upper:.4f}")
    print_table(console, table)
    data = "the packaged sample" if manifest.dataset.sample else manifest.dataset.source
    console.print(
        f"threshold {manifest.threshold:g}, expected to flag {manifest.expected_decision_rate:.2%} of transactions; trained on {escape(data)}"
    )


def said(registered: Registered, model: str) -> str:
    return f"{model} version {registered.version} is registered, digest {registered.digest[:12]}"


def _as_mapping(
    registered: Registered, model: str, seconds: float, following: str
) -> dict[str, Any]:
    manifest: dict[str, Any] = msgspec.to_builtins(registered.manifest)
    shown = (
        "algorithm",
        "parameters",
        "threshold",
        "threshold_policy",
        "expected_decision_rate",
        "metrics",
        "dataset",
        "scorer",
        "git_revision",
    )
    head = {
        "model": model,
        "version": registered.version,
        "digest": registered.digest,
        "run_id": registered.run_id,
    }
    return (
        head
        | {name: manifest[name] for name in shown}
        | {"seconds": round(seconds, 3), "next": following}
    )


@on_cluster("train")
@click.command(name="train")
@training_options
@json_option
@state_option
def command(as_json: bool, state: State, **training: Any) -> str:
    """Train a model and register it with its bundle.

    Rows are split 60/20/20 by time: the model is fitted on the first part, calibrated and given
    its threshold on the second, and reported on the third.
    """
    started = time.monotonic()
    plan = TrainingInputs.of(**training)
    url = endpoints.mlflow_url(state)
    registry = Registry(url, ProgramSettings.from_environment().model_name)
    registered = train_and_register(registry, url, plan)
    following = next_command(registered.version, state)
    if as_json:
        print_json(_as_mapping(registered, registry.model, time.monotonic() - started, following))
    else:
        report(registered, registry.model)
        output.print(
            f"[bold]{said(registered, registry.model)}[/], after {time.monotonic() - started:.1f} s"
        )
        output.print(f"next: {escape(following)}")
    return said(registered, registry.model)


if __name__ == "__main__":
    run(command)
