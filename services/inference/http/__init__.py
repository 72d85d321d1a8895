"""The HTTP layer: protocol, middleware, endpoints and pages."""
