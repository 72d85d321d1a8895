"""How the service audits its answers."""
