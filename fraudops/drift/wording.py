"""The sentences about a drift run, on the terminal and at the top of the HTML report."""

from typing import TYPE_CHECKING

from fraudops.drift.psi import SCORE, Verdict

if TYPE_CHECKING:
    from fraudops.drift.runs import DriftRun

WHAT_NEXT: dict[Verdict, str] = {
    "none": "Nothing to do.",
    "warning": (
        "It becomes an alarm if the next window exceeds a threshold too. "
        "When more rows have been scored: fraudops drift --since last"
    ),
    "alarm": (
        "The data differs from the data that the model was trained on. "
        "If a few columns are far above their thresholds, the cause is usually a broken or changed "
        "feed: check that first. "
        "If there are many, the customers or the business have changed: "
        "train on newer rows (fraudops train), validate, promote. "
        "If it began with a promotion: fraudops rollback. "
        "Live precision and recall: fraudops monitor"
    ),
    "not enough rows": (
        "Choose a longer window (--hours), or check that traffic arrives: fraudops monitor"
    ),
}


def title(run: "DriftRun") -> str:
    """Return a line that names the model, the window and the reference."""
    rows = (
        f"{run.rows:,} rows"
        if run.compared == run.rows
        else f"{run.compared:,} of {'about ' if run.rows_estimated else ''}{run.rows:,} rows"
    )
    same_day = run.start.date() == run.end.date()
    end_format = "%H:%M:%S" if same_day else "%Y-%m-%d %H:%M:%S"
    window = f"{run.start:%Y-%m-%d %H:%M:%S} to {run.end:{end_format}} UTC"
    return (
        f"Drift of version {run.model_version} ({run.model_digest[:12]}): {rows} of {window} "
        f"against its own reference of {run.reference_rows:,}"
    )


def verdict_line(run: "DriftRun") -> str:
    """Return the verdict and its reason."""
    return f"verdict: {run.verdict.upper()}: {_why(run)}"


def _why(run: "DriftRun") -> str:
    if run.verdict == "not enough rows":
        return f"fewer than {run.minimum_rows:,} rows are not judged"
    if run.verdict == "none":
        if run.features_unavailable:
            return f"the score is within its threshold; {_unavailable(run)}"
        return f"the score and all {len(run.columns) - 1} features are within their thresholds"
    names = [_name(column.name) for column in run.exceeded]
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    before = (
        f"; the window that ended {run.before.end:%Y-%m-%d %H:%M:%S} UTC exceeded too"
        if run.verdict == "alarm" and run.before
        else ""
    )
    unavailable = f"; {_unavailable(run)}" if run.features_unavailable else ""
    return f"above the threshold: {shown}{before}{unavailable}"


def _unavailable(run: "DriftRun") -> str:
    return f"drift of the features is not available: {run.features_unavailable}"


def _name(column: str) -> str:
    return "the score" if column == SCORE else column


def lines(run: "DriftRun") -> list[str]:
    """Return lines about the decision rate, refused transactions, and what to do next."""
    after = [*_refused(run), WHAT_NEXT[run.verdict]]
    if not run.rows:
        return after
    rate = run.rate
    text = (
        f"decided as fraud: {rate.value:.2%} (95 %: {rate.lower:.2%} to {rate.upper:.2%}), "
        f"expected {rate.expected:.2%}: {rate.position}"
    )
    return [text + _rate_reason(run), *after]


def _refused(run: "DriftRun") -> list[str]:
    if not run.refused:
        return []
    return [
        f"refused and not scored: {run.refused:,} transactions ({run.refused_share:.2%} of all). "
        "Fields and reasons: fraudops monitor"
    ]


def _rate_reason(run: "DriftRun") -> str:
    if run.rate.position == "below":
        return ". Less fraud, or fraud that the model misses; labels show which"
    if run.rate.position == "above":
        enriched = (
            ". The packaged sample has more frauds than real traffic, so a replay of it is above"
        )
        return enriched if run.sample else ". More fraud, or other data; labels show which"
    return ""
