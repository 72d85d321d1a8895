"""The HTTP layer: connections, the fast path, and the table of routes."""
