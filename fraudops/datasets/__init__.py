"""Card transactions: the packaged sample, files that fit a schema, and generated rows.

`overlay` changes any of them by a named drift.
"""

from fraudops.datasets.dataset import Dataset, class_weights, row_hashes, rows_digest
from fraudops.datasets.drifts import DRIFTS, DriftName, overlay
from fraudops.datasets.generator import GeneratedDataset, generate
from fraudops.datasets.loading import load, packaged_sample
from fraudops.datasets.splitting import Split, split

__all__ = [
    "DRIFTS",
    "Dataset",
    "DriftName",
    "GeneratedDataset",
    "Split",
    "class_weights",
    "generate",
    "load",
    "overlay",
    "packaged_sample",
    "row_hashes",
    "rows_digest",
    "split",
]
