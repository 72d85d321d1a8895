"""One pod: its workers, state file, bundle cache and view of the serving record."""
