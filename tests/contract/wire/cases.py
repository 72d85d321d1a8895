"""All cases of the boundary of HTTP by group; `python -m tests.contract.wire.cases` prints them."""

from tests.contract.wire.parsing_cases import SMUGGLING
from tests.contract.wire.resource_cases import ENDS, FLOODS, SLOW

CASES = {"smuggling": SMUGGLING, "slow": SLOW, "floods": FLOODS, "ends": ENDS}


def rows() -> list[str]:
    """Return the table as Markdown, without the resets at each byte."""
    found = ["| group | case | answers | connection | rule |", "|---|---|---|---|---|"]
    for group, cases in CASES.items():
        for case in cases:
            if case.name.startswith("dead at byte") and not case.name.endswith(" 1"):
                continue
            answers = "any" if case.answers is None else ", ".join(map(str, case.answers))
            found.append(
                f"| {group} | {case.name} | {answers or 'none'} | {case.end} | {case.reference} |"
            )
    return found


if __name__ == "__main__":
    print("\n".join(rows()))
