"""Runs every component of fraudops on one machine and restarts the ones that fail."""
