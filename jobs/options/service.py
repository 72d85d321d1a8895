"""The option that names the inference service, for predict, simulate and the smoke test.

Light to import.
"""

import os

import click

from fraudops import endpoints
from fraudops.client import InferenceClient
from fraudops.state import State

url_option = click.option(
    "--url",
    default=None,
    metavar="URL",
    help="The inference service. [env: FRAUDOPS_URL; default: what `fraudops up` started]",
)


def open_client(url: str | None, state: State, connections: int = 1) -> InferenceClient:
    """Return a client that authenticates with FRAUDOPS_API_KEY, if that is set."""
    # No option: other users of the machine see the arguments of a process.
    return InferenceClient(
        url or endpoints.inference_url(state),
        connections=connections,
        credential=os.environ.get("FRAUDOPS_API_KEY"),
    )
