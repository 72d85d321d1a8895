"""Authentication of the clients of the service."""
