"""Switching off one rule of the promotion: replaced functions, parts, or rules of the world."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fraudops.promotion.protocol import Promoter
from tests.support.simulation.jobs import MakePromoter
from tests.support.simulation.scenario import Scenario
from tests.support.simulation.shrink import Failure, fails
from tests.support.simulation.world import PRODUCT, Rules

Patch = tuple[Any, str, Any]


@dataclass(frozen=True)
class Off:
    """One rule switched off: replaced functions, a replaced part, or a rule of the world.

    `odds` makes the weather more frequent in which the rule matters.
    """

    patches: tuple[Patch, ...] = ()
    rules: Rules = PRODUCT
    promoter: MakePromoter = Promoter
    odds: Mapping[str, float] = field(default_factory=dict)

    def build(self, seed: int, without: frozenset[str] = frozenset()) -> Scenario:
        return Scenario(seed, self.rules, self.promoter, self.odds, without)

    def search(self, seeds: Iterator[int] | Sequence[int]) -> tuple[int, Failure] | None:
        """Return the first seed that fails, with its failure."""
        for seed in seeds:
            if failure := fails(partial(self.build, seed)):
                return seed, failure
        return None


@contextlib.contextmanager
def switched_off(off: Off) -> Iterator[None]:
    """Replace the functions where they are looked up, and put them back."""
    kept = [(where, name, getattr(where, name)) for where, name, _ in off.patches]
    for where, name, replacement in off.patches:
        setattr(where, name, replacement)
    try:
        yield
    finally:
        for where, name, original in kept:
            setattr(where, name, original)


def off(where: Any, name: str, replacement: Any, **odds: float) -> Off:
    return Off(patches=((where, name, replacement),), odds=_named(odds))


def _named(odds: Mapping[str, float]) -> dict[str, float]:
    return {kind.replace("_", " "): probability for kind, probability in odds.items()}


async def _later(value: Any, *_: Any, **__: Any) -> Any:
    return value


def always(value: Any) -> Callable[..., Any]:
    """A coroutine function that returns the value whatever it is called with."""
    return lambda *_, **__: _later(value)


def constant(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value
