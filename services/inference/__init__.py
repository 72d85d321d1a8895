"""The prediction service: `python -m services.inference`."""
