"""Who may make an admin call, and on which port."""

import hmac

from starlette.types import Scope

from services.inference.http.problems import (
    AdminDisabledError,
    NoSuchEndpointError,
    UnauthorisedError,
)

# Pages that FastAPI answers: the metrics need no token, what pods give each other does.
METRICS, WITH_TOKEN = "/metrics", ("/bundles/", "/spool/")


class Admin:
    """With a port of their own the admin calls do not exist on the public one, which an ingress
    reaches.
    """

    def __init__(self, token: bytes | None, port: int | None) -> None:
        self._authorization = b"Bearer " + token if token else None
        self._port = port

    def check_token(self, authorization: bytes) -> None:
        """Raises AdminDisabledError, UnauthorisedError."""
        if self._authorization is None:
            raise AdminDisabledError
        if not hmac.compare_digest(authorization, self._authorization):
            raise UnauthorisedError

    def admit_page(self, scope: Scope, authorization: bytes) -> None:
        """For the pages that FastAPI answers. Raises as the two checks do."""
        path: str = scope["path"]
        if path == METRICS or path.startswith(WITH_TOKEN):
            self.check_port(scope)
        if path.startswith(WITH_TOKEN):
            self.check_token(authorization)

    def check_port(self, scope: Scope) -> None:
        """Raises NoSuchEndpointError on the public port."""
        server = scope["server"]
        if self._port and (server is None or server[1] != self._port):
            raise NoSuchEndpointError
