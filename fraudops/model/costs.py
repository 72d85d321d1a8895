"""Costs of a decision. Light to import."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Costs:
    """The costs of a decision, in the currency of the amounts.

    A missed fraud costs its amount plus `fee`. Every review costs `review`, even if it finds no
    fraud.
    """

    fee: float = 15.0
    review: float = 5.0


DEFAULT_COSTS = Costs()
