"""Card transactions: the packaged sample, files that fit a schema, generated rows, and the drifts that can be laid over any of them."""

from fraudops.datasets.dataset import Dataset, class_weights, row_hashes, rows_digest
from fraudops.datasets.loading import load
from fraudops.datasets.splitting import Split, split

__all__ = ["Dataset", "Split", "class_weights", "load", "row_hashes", "rows_digest", "split"]
