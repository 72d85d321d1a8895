"""What `fraudops audit verify` says to people."""

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from fraudops.audit.reconciliation import ReconciliationReport


def reconciliation_table(found: "ReconciliationReport") -> Table:
    """Where everything is, a count a line."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    rows: list[tuple[str, int, str]] = [
        (
            "in the table",
            found.rows,
            f"rows from {found.since:%Y-%m-%d %H:%M:%S} to {found.until:%Y-%m-%d %H:%M:%S} UTC",
        )
    ]
    rows += [
        ("twice, or misdated", found.duplicated, "ids"),
        (
            "in the spool only",
            found.in_spool,
            f"predictions; {found.labels_in_spool:,} labels as well",
        ),
    ]
    replay = ": fraudops audit replay" if found.set_aside else ""
    rows += [
        (
            "set aside only",
            found.set_aside,
            f"predictions{replay}; {found.unreadable:,} stretches that hold no record",
        )
    ]
    if found.kept_for_newer:
        rows.append(("for a newer release", found.kept_for_newer, "records; upgrade to ship them"))
    if log := found.log:
        rows += [
            ("answer log", log.lines, f"answers, {log.repeated:,} under an id that came before"),
            ("  in the table", log.in_table, ""),
        ]
        rows += [
            ("  in the spool", log.in_spool, ""),
            ("  set aside", log.set_aside, ""),
            ("  beyond retention", log.expired, ""),
            ("  lost", log.lost, ""),
        ]
    for name, count, text in rows:
        table.add_row(name, f"{count:,}", text)
    return table


def what_is_wrong(found: "ReconciliationReport") -> str:
    """Empty when all agrees."""
    lost = (
        f"{found.log.lost:,} of {found.log.lines - found.log.repeated:,} answers are lost"
        if found.log and found.log.lost
        else ""
    )
    twice = (
        f"{found.duplicated:,} ids stand in the table twice, or under a timestamp that is not their own"
        if found.duplicated
        else ""
    )
    return "; ".join(text for text in (lost, twice) if text)
