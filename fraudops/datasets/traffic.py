"""Which rows a replay sends, and in which order."""

import numpy as np
from numpy.typing import NDArray


def spread_rows(available: int, rows: int, seed: int) -> NDArray[np.intp]:
    """(rows,) positions in time order: evenly spaced when there are enough, else drawn with
    replacement.
    """
    if rows <= available:
        return np.linspace(0, available - 1, rows).round().astype(np.intp)
    return np.sort(np.random.default_rng(seed).integers(0, available, size=rows)).astype(np.intp)
