"""Bundles: manifest, scorer, pipeline file, metrics and verification."""
