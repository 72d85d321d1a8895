"""Programs that stay up."""
