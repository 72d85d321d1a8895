"""Titles of the metrics in tables and reports."""

METRIC_TITLES = {
    "roc_auc": "ROC-AUC",
    "average_precision": "average precision",
    "recall_at_precision_0_80": "recall at precision 0.80",
    "cost_per_transaction": "cost per transaction",
    "calibration_error": "calibration error",
    "precision": "precision at the threshold",
    "recall": "recall at the threshold",
    "decision_rate": "share of transactions flagged",
}
