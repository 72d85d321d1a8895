"""Train a model, log the run, and register a version with its sealed bundle.

The output ends with the number of the version and the next command.
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
from jobs.reports.metrics import METRIC_TITLES
from jobs.runner import json_option, output, print_json, run, say, state_option, target_options

if TYPE_CHECKING:
    from fraudops.training.trainer import TrainingResult


@dataclass(frozen=True)
class Registered:
    """A version that was just registered."""

    version: str
    run_id: str
    digest: str
    manifest: Manifest


def train_and_register(
    registry: Registry, url: str, inputs: TrainingInputs, request: str | None = None
) -> Registered:
    """Train a model and register it.

    The version is tagged with `request`, so that another try of the request finds it. Raises
    StoreDownError, DataError or RefusedError.
    """
    # If the registry is down, fail here and not after the training.
    registry.versions()
    from fraudops import datasets
    from fraudops.schema import load_schema
    from fraudops.training.trainer import Provenance, train, write_bundle

    say("reading the data")
    dataset = datasets.load(
        Path(inputs.source).absolute() if inputs.source else None,
        load_schema(inputs.schema),
        inputs.prevalence,
    )
    split = datasets.split(dataset, inputs.settings.split, inputs.settings.seed)
    if dropped := split.dropped_duplicates + split.dropped_ties:
        say(f"{dropped:,} rows dropped: duplicates of an earlier part, or ties with its last row")
    if dataset.prevalence is None:
        say("no --prevalence: the data and all figures count as collected")
    trained = train(split, inputs.settings, say)
    with tempfile.TemporaryDirectory(prefix="fraudops-train-") as folder:
        bundle = Path(folder) / "bundle"
        bundle.mkdir()
        say("compiling, sealing and verifying the bundle")
        digest, manifest = write_bundle(
            bundle, trained, Provenance(registry.model, dataset, git_revision())
        )
        say(f"registering with MLflow at {registry.url}")
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
    """Return the content of the run for MLflow: parameters, metrics, plots and the bundle."""
    from fraudops.datasets import class_weights
    from fraudops.training.plots import draw

    test, data = trained.split.test, manifest.dataset
    facts = {
        "threshold": manifest.threshold,
        "expected_decision_rate": manifest.expected_decision_rate,
        "scorer_max_abs_difference": manifest.scorer.max_abs_difference,
        "scorer_flips": manifest.scorer.decision_mismatches,
    }
    described = {f"dataset_{name}": value for name, value in msgspec.structs.asdict(data).items()}
    parts = {
        "rows_train": len(trained.split.train),
        "rows_validation": len(trained.split.validation),
        "rows_test": len(test),
    }
    source = "the packaged sample" if data.sample else data.source
    title = f"{manifest.algorithm}, test part of {len(test):,} rows ({source})"
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
    """Return each metric as `name`, `name_lower` and `name_upper`; MLflow stores only numbers."""
    named = {
        name: {"": metric.value, "_lower": metric.lower, "_upper": metric.upper}
        for name, metric in metrics.items()
    }
    return {
        name + suffix: value for name, values in named.items() for suffix, value in values.items()
    }


def git_revision() -> str:
    """Return the commit of the checkout that this code runs from, or `unknown` outside of one.

    `-dirty` is appended if files differ from the commit.
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
    """Return the command to run next, with the options of this installation."""
    return f"fraudops validate --version {version}{target_options(state)}"


def report(registered: Registered, console: Console = output) -> None:
    """Print the metrics of the version and its threshold."""
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
        f"threshold {manifest.threshold:g}, expected to flag "
        f"{manifest.expected_decision_rate:.2%} of transactions; trained on {escape(data)}"
    )


def registration_line(registered: Registered, model: str) -> str:
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

    Rows are split 60/20/20 by time. The first part fits the model. The second calibrates it and
    chooses the threshold. The third measures it.
    """
    started = time.monotonic()
    inputs = TrainingInputs.of(**training)
    url = endpoints.mlflow_url(state)
    registry = Registry(url, ProgramSettings.from_environment().model_name)
    registered = train_and_register(registry, url, inputs)
    following = next_command(registered.version, state)
    line = registration_line(registered, registry.model)
    if as_json:
        print_json(_as_mapping(registered, registry.model, time.monotonic() - started, following))
    else:
        report(registered)
        output.print(f"[bold]{line}[/], after {time.monotonic() - started:.1f} s")
        output.print(f"next: {escape(following)}")
    return line


if __name__ == "__main__":
    run(command)
