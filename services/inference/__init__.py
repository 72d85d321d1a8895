"""The program that answers predictions: `python -m services.inference`."""
