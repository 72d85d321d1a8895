"""Validation: the gates that a candidate must pass, and the verdict."""
