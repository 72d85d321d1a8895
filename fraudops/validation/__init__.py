"""Validation: gates over a candidate, and the verdict they lead to."""
