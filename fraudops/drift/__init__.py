"""Drift: PSI verdicts, scans of recent predictions, their reports and rows."""
