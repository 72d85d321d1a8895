"""The random decisions of one seed, in a form that can be shrunk."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

Option = TypeVar("Option")
MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15


class Choices:
    """Draws every decision from its own stream, named by what may happen and to whom.

    Leaving out one event therefore changes no other draw. `happened` names the events of the
    run, and `without` those that are left out.
    """

    def __init__(self, seed: int, without: frozenset[str] = frozenset()) -> None:
        self.seed, self.without = seed, without
        self.happened: list[str] = []
        self._streams: dict[tuple[str, str], list[int]] = {}

    def number(self, what: str, who: str = "") -> float:
        """Return the next number of the stream, at least 0 and below 1."""
        stream = self._streams.get((what, who))
        if stream is None:
            digest = blake2b(f"{self.seed}/{what}/{who}".encode(), digest_size=8).digest()
            stream = self._streams[what, who] = [int.from_bytes(digest, "big"), 0]
        stream[1] += 1
        # The mixer of SplitMix64 (Steele, Lea and Flood, 2014).
        mixed = (stream[0] + stream[1] * GAMMA) & MASK
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
        return ((mixed ^ (mixed >> 31)) >> 11) / (1 << 53)

    def between(self, low: float, high: float, what: str, who: str = "") -> float:
        return low + (high - low) * self.number(what, who)

    def pick(self, options: Sequence[Option], what: str, who: str = "") -> Option:
        return options[int(self.number(what, who) * len(options))]

    def happens(self, what: str, who: str, probability: float) -> bool:
        """Decide whether the event happens now, unless it is left out."""
        if probability <= 0 or self.number(what, who) >= probability:
            return False
        name = f"{what}: {who} #{self._streams[what, who][1]}"
        if name in self.without:
            return False
        self.happened.append(name)
        return True
