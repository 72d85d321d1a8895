"""Tables and notes of `fraudops monitor`."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.table import Table

from fraudops.audit.shipper_status import ShipperStatus

if TYPE_CHECKING:
    from fraudops.audit.activity import Activity
    from fraudops.audit.labels import LabelActivity
    from fraudops.audit.refused import RefusedTransactions

# The most frequent reasons of refusals that are shown.
SHOWN_REASONS = 5
# Attributes of Activity that are ratios, as `--json` names them.
RATIOS = ("fraud_rate", "label_coverage", "precision", "recall", "f1", "false_positive_rate")
ACTIVITY_TITLES = (
    "answers",
    "decisions",
    "frauds",
    "rate",
    "mean p",
    "p50 ms",
    "p95 ms",
    "p99 ms",
)
QUALITY_TITLES = ("labelled", "precision", "recall", "F1", "false alarms", "caught", "missed")


def activity_table(rows: Sequence["Activity"]) -> Table:
    """Return a table of volume, decisions and latency, one row per version."""
    table = _table(ACTIVITY_TITLES)
    for row in rows:
        latencies = (
            f"{value:.2f}" if value is not None else ""
            for value in (row.latency_p50_ms, row.latency_p95_ms, row.latency_p99_ms)
        )
        table.add_row(
            _name(row),
            f"{row.answers:,}",
            f"{row.decisions:,}",
            f"{row.frauds:,}",
            _percent(row.fraud_rate),
            "" if row.mean_probability is None else f"{row.mean_probability:.4f}",
            *latencies,
        )
    return table


def quality_table(rows: Sequence["Activity"]) -> Table:
    """Return a table of the quality of labelled decisions, one row per version."""
    table = _table(QUALITY_TITLES)
    for row in rows:
        ratios = (row.precision, row.recall, row.f1, row.false_positive_rate)
        table.add_row(
            _name(row),
            f"{row.labelled:,}",
            *map(_percent, ratios),
            f"{row.true_positives:,}",
            f"{row.false_negatives:,}",
        )
    return table


def quality_note(total: "Activity") -> str:
    """Return the sentence above the quality table, or the reason why there is no table."""
    if not total.labelled:
        return (
            "No labels have arrived for these decisions yet: precision and recall are unknown. "
            "Send labels with POST /feedback."
        )
    return (
        f"Labels have arrived for {total.labelled:,} of {total.decisions:,} decisions "
        f"({_percent(total.label_coverage)}); among these:"
    )


def estimate_note(total: "Activity") -> str:
    """Return the note about a sampled window: the sample and the 95 % margins of its figures."""
    margins = total.margins()
    counts = ", ".join(
        f"{name} ± {margins[name]:,.0f}" for name in ("answers", "decisions", "frauds")
    )
    ratios = ", ".join(
        f"{name.replace('_', ' ')} ± {margins[name]:.2%}"
        for name in RATIOS
        if margins.get(name) is not None and getattr(total, name) is not None
    )
    frauds = "all" if total.fraud_weight == 1 else f"one in {total.fraud_weight:,}"
    return (
        f"Estimates from {total.read:,} answers: of those decided as fraud {frauds}, of the "
        f"others one in {total.weight:,}. With 95 % confidence {counts}; {ratios}. A shorter "
        "window is counted exactly."
    )


def labels_mapping(labels: "LabelActivity") -> dict[str, Any]:
    """Return the object `labels` of `--json`."""
    return asdict(labels) | {
        "estimated": labels.estimated,
        "unmatched_share": labels.unmatched_share,
        "margin_95": labels.unmatched_margin if labels.estimated else None,
    }


def labels_note(labels: "LabelActivity") -> str:
    """Return the note about the labels that arrived, or an empty text if there are none."""
    if not labels.received:
        return ""
    about = "about " if labels.estimated else ""
    text = f"Labels that arrived in this window: {labels.received:,}."
    if labels.checked:
        margin = f" ± {labels.unmatched_margin:.2%}" if labels.estimated else ""
        text += (
            f" Of those older than 10 minutes, {about}{labels.unmatched:,} "
            f"({labels.unmatched_share:.2%}{margin}) match no answer."
        )
    if labels.contradictory:
        text += (
            f" For {about}{labels.contradictory:,}, another label of the transaction says the "
            "opposite."
        )
    return text


def refused_mapping(refused: "RefusedTransactions", answers: int) -> dict[str, Any]:
    """Return the object `refused` of `--json`."""
    return {
        "rows": refused.rows,
        "share": refused.share(answers),
        "reasons": [asdict(reason) for reason in refused.reasons[:SHOWN_REASONS]],
    }


def refused_note(refused: "RefusedTransactions", answers: int) -> str:
    """Return the note about refused transactions, or an empty text if there are none."""
    if not refused.rows:
        return ""
    shown = "; ".join(
        f"{reason.field} {reason.reason.replace('_', ' ')} {reason.rows:,}"
        for reason in refused.reasons[:SHOWN_REASONS]
    )
    hidden = len(refused.reasons) - SHOWN_REASONS
    more = f"; {hidden} more reasons" if hidden > 0 else ""
    return (
        f"Refused transactions, which were not scored: {refused.rows:,} "
        f"({refused.share(answers):.2%} of all): {shown}{more}"
    )


def spool_note(shipper: ShipperStatus | None, now: datetime) -> str:
    """Return the note about predictions that are not in the table yet, so not in the figures."""
    if shipper is None:
        return "No shipper has run in this state folder."
    phase = shipper_phase(shipper, now)
    state = ""
    if phase != "shipping":
        error = f": {shipper.last_error}" if shipper.last_error else ""
        state = f" The shipper is {phase}{error}."
    if not shipper.backlog_bytes:
        return f"Everything answered is in the table.{state}"
    oldest = (
        f", the oldest from {shipper.oldest_at:%Y-%m-%d %H:%M:%S} UTC" if shipper.oldest_at else ""
    )
    return (
        f"Still in the spool, and not in these figures: {shipper.backlog_bytes:,} bytes{oldest}."
        f"{state}"
    )


def shipper_phase(shipper: ShipperStatus, now: datetime) -> str:
    """Return the phase of the shipper, or `silent` if it no longer writes its status."""
    return "silent" if shipper.phase != "stopped" and shipper.stale(now) else shipper.phase


def _table(titles: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("version")
    for title in titles:
        table.add_column(title, justify="right")
    return table


def _name(row: "Activity") -> str:
    return row.model_version or "all"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.2%}"
