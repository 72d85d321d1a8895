"""Options that name what `fraudops audit forget` forgets.

Light to import.
"""

from collections.abc import Callable
from typing import Any

import click


def _names(option: str, parameter: str, metavar: str, text: str) -> Callable[[Any], Any]:
    return click.option(option, parameter, multiple=True, metavar=metavar, help=text)


prediction_option = _names("--prediction", "predictions", "ID", "A prediction_id; repeatable.")
transaction_option = _names(
    "--transaction", "transactions", "ID", "A transaction_id: all its predictions; repeatable."
)
entity_option = _names(
    "--entity", "entities", "KEY", "An entity_key: all its predictions; repeatable."
)
