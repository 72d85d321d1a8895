"""The README's known transaction, as it is sent."""

from importlib import resources

TRANSACTION = resources.files("fraudops").joinpath("datasets/sample/transaction.json").read_bytes()
