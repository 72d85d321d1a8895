"""Tables and messages of `fraudops audit verify`."""

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from fraudops.audit.reconciliation import AnswerLogReport, ReconciliationReport

Row = tuple[str, int, str]


def reconciliation_table(found: "ReconciliationReport") -> Table:
    """Return a table with one count per line: in the table, in the spool, dead letters, lost."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    rows = [*_rows(found), *(_log_rows(found.log) if found.log else ())]
    for name, count, text in rows:
        table.add_row(name, f"{count:,}", text)
    return table


def _rows(found: "ReconciliationReport") -> list[Row]:
    window = f"rows from {found.since:%Y-%m-%d %H:%M:%S} to {found.until:%Y-%m-%d %H:%M:%S} UTC"
    replay = ": fraudops audit replay" if found.set_aside else ""
    rows = [
        ("in the table", found.rows, window),
        ("twice, or misdated", found.duplicated, "ids"),
        (
            "in the spool only",
            found.in_spool,
            f"predictions; {found.labels_in_spool:,} labels as well",
        ),
        (
            "dead letters only",
            found.set_aside,
            f"predictions{replay}; {found.unreadable:,} stretches that hold no record",
        ),
    ]
    if found.kept_for_newer:
        rows.append(("for a newer release", found.kept_for_newer, "records; upgrade to ship them"))
    return rows


def _log_rows(log: "AnswerLogReport") -> list[Row]:
    return [
        ("answer log", log.lines, f"answers, {log.repeated:,} with an id that occurred before"),
        ("  in the table", log.in_table, ""),
        ("  in the spool", log.in_spool, ""),
        ("  dead letters", log.set_aside, ""),
        ("  beyond retention", log.expired, ""),
        ("  lost", log.lost, ""),
    ]


def problems_of(found: "ReconciliationReport") -> str:
    """Return the problems in one line, or an empty text if there are none."""
    problems = []
    if found.log and found.log.lost:
        answers = found.log.lines - found.log.repeated
        problems.append(f"{found.log.lost:,} of {answers:,} answers are lost")
    if found.duplicated:
        # An id contains its timestamp, so a second row can exist only under another timestamp.
        problems.append(
            f"{found.duplicated:,} ids are in the table twice, or under a wrong timestamp"
        )
    return "; ".join(problems)
