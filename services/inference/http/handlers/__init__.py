"""Handlers: each takes a request of one route and returns its answer."""
