"""The README's example transaction as JSON bytes."""

from importlib import resources

TRANSACTION = resources.files("fraudops").joinpath("datasets/sample/transaction.json").read_bytes()
