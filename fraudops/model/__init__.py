"""Bundles: manifest, pipeline file, scorer, metrics and verification."""
