"""Selects the rows that a replay of traffic sends."""

import numpy as np
from numpy.typing import NDArray


def spread_rows(available: int, rows: int, seed: int) -> NDArray[np.intp]:
    """Return the positions (rows,) of the rows to send, in time order.

    They are evenly spaced if enough rows are available, or else drawn with replacement.
    """
    if rows <= available:
        return np.linspace(0, available - 1, rows).round().astype(np.intp)
    return np.sort(np.random.default_rng(seed).integers(0, available, size=rows)).astype(np.intp)
