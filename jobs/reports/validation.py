"""Output of a validation: step by step for people, and as one JSON object."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.markup import escape

from fraudops.model.manifest import Manifest
from fraudops.registry import TAG_SAMPLE, ModelVersion
from fraudops.validation.gates import COMPARED, GateResult
from fraudops.validation.verdict import Production
from jobs.reports.metrics import METRIC_TITLES

if TYPE_CHECKING:
    from fraudops.validation.candidate import TestData
    from fraudops.validation.measurement import Measurement

STEPS = 5
GATE_TITLES = {
    "bundle": "bundle is the registered one",
    "roc_auc": "ROC-AUC",
    "average_precision": "average precision",
    "trained_on_test_rows": "test rows seen in training",
    "scorer_parity": "scorer against pipeline",
    "decision_flips": "decisions that differ",
    "latency_ms": "scoring one row (ms)",
    COMPARED["roc_auc"]: "ROC-AUC difference",
    COMPARED["average_precision"]: "average precision difference",
}


class Screen:
    """Prints each step of a validation when it is done."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def version(self, version: ModelVersion) -> None:
        digest = f"digest {version.digest[:12]}" if version.digest else "no digest"
        self._step(
            1,
            "model version",
            f"version {version.version} exists: {digest}, registered {version.created_at[:19]}Z",
        )

    def data(self, data: "TestData") -> None:
        rows = data.rows
        weights = (
            f"weighted to prevalence {data.prevalence:g}"
            if data.prevalence is not None
            else "counted as collected (no prevalence is known)"
        )
        self._step(
            2,
            "test data",
            f"{len(rows):,} rows with {rows.frauds:,} frauds, the test part by {data.method} of: "
            f"{rows.source}; {weights}",
        )
        if not data.as_trained:
            self._line("[yellow]this is not the file that the version was trained on[/]")

    def metrics(
        self, manifest: Manifest, measured: "Measurement", prevalence: float | None
    ) -> None:
        basis = "as collected" if prevalence is None else f"at prevalence {prevalence:g}"
        self._step(
            3,
            "model and metrics",
            f"{manifest.algorithm}, scorer {manifest.scorer.kind}, "
            f"threshold {manifest.threshold:g}; metrics {basis} (95 % interval)",
        )
        for name, interval in measured.metrics.items():
            self._line(
                f"{METRIC_TITLES.get(name, name):<30} {interval.value:>9.4f}   "
                f"{interval.lower:.4f} to {interval.upper:.4f}"
            )

    def checks(self, gates: Sequence[GateResult]) -> None:
        self._step(4, "checks", f"{sum(gate.passed for gate in gates)} of {len(gates)} passed")
        self._gates(gates)

    def comparison(self, gates: Sequence[GateResult], production: Production | None) -> None:
        self._step(
            5,
            "comparison with production",
            f"version {production.version} serves" if production else "nothing serves yet",
        )
        self._gates(gates)

    def broken(self, gates: Sequence[GateResult]) -> None:
        """Report a bundle that must not be opened; its later steps would mean nothing."""
        self._console.print("[bold]this bundle is not trusted, so the other steps are skipped[/]")
        self._gates(gates)

    def verdict(self, version: ModelVersion, gates: Sequence[GateResult], seconds: float) -> None:
        failed = sum(not gate.passed for gate in gates)
        sample = (
            "; trained on the packaged sample, not on your transactions"
            if version.tags.get(TAG_SAMPLE) == "true"
            else ""
        )
        word = "[bold red]REFUSED[/]" if failed else "[bold green]PASSED[/]"
        self._console.print(
            f"{word}: version {version.version}, {len(gates) - failed} of {len(gates)} gates "
            f"passed, {seconds:.1f} s{sample}"
        )

    def next(self, command: str, promotion: dict[str, Any] | None) -> None:
        if promotion is not None:
            self._console.print(
                f"version {promotion['version']} is in production (epoch {promotion['epoch']})"
            )
        else:
            self._console.print(f"Next: [bold]{escape(command)}[/]")

    def _step(self, number: int, name: str, text: str) -> None:
        self._console.print(f"[bold]{number}/{STEPS} {name}[/]: {escape(text)}")

    def _line(self, text: str) -> None:
        self._console.print(f"    {text}")

    def _gates(self, gates: Sequence[GateResult]) -> None:
        for gate in gates:
            mark = "[green]PASS[/]" if gate.passed else "[bold red]FAIL[/]"
            title = GATE_TITLES.get(gate.name, gate.name)
            self._line(
                f"{mark} {title:<30} {number(gate.value):>9} {limit(gate):<10} "
                f"{escape(gate.detail)}"
            )


def number(value: float | None) -> str:
    """Return a number for the table: integers in full, small values in scientific notation."""
    if value is None or not math.isfinite(value):
        return "-"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:.4f}" if abs(value) >= 0.001 else f"{value:.2g}"


def limit(gate: GateResult) -> str:
    return "" if gate.limit is None else f"{gate.sign} {gate.limit:g}"


def as_mapping(
    version: ModelVersion,
    data: "TestData | None",
    measured: "Measurement | None",
    verdict: dict[str, Any],
) -> dict[str, Any]:
    """Return the validation's part of the object that `--json` prints."""
    metrics = (
        {name: msgspec.structs.asdict(interval) for name, interval in measured.metrics.items()}
        if measured
        else None
    )
    return {
        "version": version.version,
        "digest": version.digest,
        "passed": verdict["passed"],
        "test_data": _data_mapping(data) if data else None,
        "metrics": metrics,
        "verdict": verdict,
    }


def _data_mapping(data: "TestData") -> dict[str, Any]:
    return {
        "source": data.rows.source,
        "digest": data.rows.digest,
        "rows": len(data.rows),
        "frauds": data.rows.frauds,
        "prevalence": data.prevalence,
        "split": data.method,
        "same_file_as_training": data.as_trained,
    }
