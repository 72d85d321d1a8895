"""How a promotion or a rollback ended: one sentence for each ending, with the next command."""

from fraudops.errors import RefusedError, StoreDownError
from fraudops.promotion.request import PromotionResult

LATE = {
    "alias": "the registry's alias: the reconciler writes it when MLflow answers",
    "row": "the row in promotions: the serving record keeps it until the reconciler has written it "
    "to PostgreSQL",
}


def ending(result: PromotionResult, seconds: float, target: str) -> str:
    """Return the sentence about an act that succeeded.

    `target` holds the options that make the next command act on the same installation. Raises
    RefusedError when another version serves than the act named, and StoreDownError when the
    version is committed but not confirmed by every pod.
    """
    if result.outcome == "done":
        again = "serves again" if result.act == "rollback" else "serves"
        return (
            f"version {result.version} {again} on every worker "
            f"(epoch {result.epoch}, {seconds:.1f} s)"
        )
    if result.outcome == "unchanged":
        return (
            f"version {result.version} is in production already: nothing has changed "
            f"(epoch {result.epoch}, {seconds:.1f} s)"
        )
    if result.outcome == "unconfirmed":
        raise StoreDownError(_unconfirmed(result, target))
    raise RefusedError(_not_done(result, target))


def _unconfirmed(result: PromotionResult, target: str) -> str:
    sentence = (
        f"unconfirmed: {result.reason}. Version {result.version} is committed "
        f"(epoch {result.epoch}). Pods follow the serving record without further action: watch "
        f"them with `fraudops status{target}`"
    )
    if result.undone:
        return sentence
    return (
        f"{sentence}. If version {result.version} is bad, go back with `fraudops rollback{target}`"
    )


def _not_done(result: PromotionResult, target: str) -> str:
    serves = (
        f"version {result.version} serves (epoch {result.epoch})"
        if result.version
        else "no model serves"
    )
    if result.outcome == "failed":
        return (
            f"failed: {result.reason} (epoch {result.epoch}). Look at these pods with "
            f"`fraudops status{target}` before you promote again"
        )
    if result.outcome == "overtaken":
        return (
            f"overtaken: {result.reason}; {serves}. `fraudops promotions{target}` lists "
            "the later acts. Run the same command again if that is not what you want"
        )
    what = "The serving record has not changed" if result.behind else "Nothing has changed"
    return f"refused: {result.reason}. {what}: {serves}; see `fraudops status{target}`"


def late_notices(result: PromotionResult) -> list[str]:
    """Return a line for each part that the reconciler still has to write."""
    return [LATE.get(part, part) for part in result.late]
