"""Auditing of predictions and labels in the inference service."""
