"""The table of docs/operations/rights.md, and which of its rows hold for the values of a test."""

from collections.abc import Callable, Mapping

from tests.chart.rendering import ROOT, Variant

# Account, verb, resource, name of the object, or "".
Right = tuple[str, str, str, str]
POLICY = "promotion.policy.enabled=true"
APPROVAL = (POLICY, "promotion.approval.required=true", "promotion.policy.automation={x}")
OWN_SECRETS = (
    "adminToken.existingSecret=a",
    "postgresql.existingSecret=b",
    "signing.verdictKey.existingSecret=c",
    "signing.waiverKey.existingSecret=d",
    "signing.publicKeys.existingSecret=e",
)


def unset(path: str) -> Callable[[Variant], bool]:
    return lambda variant: not any(each.startswith(path) for each in variant.settings)


# What the column "only with" says, for the variants of the tests.
CONDITIONS: Mapping[str, Callable[[Variant], bool]] = {
    "": lambda variant: True,
    "`rollout` in `promotion.strategies`": unset("promotion.strategies="),
    "`promotion.podDeletion` other than `none`": (
        lambda variant: "promotion.podDeletion=none" not in variant.settings
    ),
    "`promotion.approval.required`": (
        lambda variant: "promotion.approval.required=true" in variant.settings
    ),
    "`backup.enabled`": lambda variant: "backup.enabled=true" in variant.settings,
    "a Secret that setup makes": lambda variant: not set(OWN_SECRETS) <= set(variant.settings),
    "a data claim that setup makes": lambda variant: "data.source=volume" in variant.settings,
    **{
        f"no `{path}`": unset(path)
        for path in (setting.partition("=")[0] for setting in OWN_SECRETS)
    },
}


def rows() -> list[list[str]]:
    """Return account, verbs, resource, name and condition of each row of the page."""
    page = (ROOT / "docs" / "operations" / "rights.md").read_text()
    table = page.partition("| account |")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n")[2:]]


def named_in(cell: str) -> str:
    return cell.strip("`").replace("…", "fraudops")


def table(variant: Variant | None) -> set[Right]:
    """Return the rights that the page gives for the variant, or all of them."""
    return {
        (named_in(account), verb, resource, named_in(name))
        for account, verbs, resource, name, condition in rows()
        if variant is None or CONDITIONS[condition](variant)
        for verb in verbs.split(", ")
        if verb != "none"
    }
