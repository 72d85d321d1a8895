"""The pod: its workers, state file, bundles and serving record."""
