"""Summary of a dataset for `fraudops data describe`."""

from typing import Any

import numpy as np

from fraudops.datasets.dataset import Dataset, row_hashes


def summarise(dataset: Dataset) -> dict[str, Any]:
    """Return counts, shares and quantiles of a dataset as JSON-ready values.

    Times have the unit of the file, which is seconds in the ULB data.
    """
    schema, time = dataset.schema, dataset.time
    columns = {
        feature.name: _column(dataset.frame[feature.name].to_numpy(dtype=np.float64))
        | {"allowed": [feature.minimum, feature.maximum]}
        for feature in schema.features
    }
    return {
        "source": dataset.source,
        "sample": dataset.sample,
        "digest": dataset.digest,
        "schema": {"name": schema.name, "fingerprint": schema.fingerprint},
        "rows": len(dataset),
        "frauds": dataset.frauds,
        "fraud_share": dataset.frauds / len(dataset),
        "prevalence": dataset.prevalence,
        "duplicates": len(dataset) - len(np.unique(row_hashes(dataset))),
        "period": {
            "from": float(time[0]),
            "to": float(time[-1]),
            "length": float(time[-1] - time[0]),
        },
        "columns": columns,
    }


def _column(values: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
    lower, median, upper = np.quantile(values, [0.01, 0.5, 0.99])
    return {
        "minimum": float(values.min()),
        "p01": float(lower),
        "median": float(median),
        "p99": float(upper),
        "maximum": float(values.max()),
    }
