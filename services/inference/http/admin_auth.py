"""Who may make an admin call, and on which port."""

import hmac
from typing import Literal

from services.inference.http.problems import AdminDisabledError, UnauthorisedError


class Admin:
    """The admin token, and the port of the admin calls.

    If they have a port of their own, they do not exist on the public one, which an ingress reaches.
    """

    def __init__(self, token: bytes | None, port: int | None) -> None:
        self._authorization = b"Bearer " + token if token else None
        self._port = port

    def port_of(self, server: tuple[str, int | None] | None) -> Literal["public", "admin", "both"]:
        """Return the port on which a request came, by the address of the server's socket."""
        if self._port is None:
            return "both"
        return "admin" if server and server[1] == self._port else "public"

    def check_token(self, authorization: bytes) -> None:
        """Raises AdminDisabledError, UnauthorisedError."""
        if self._authorization is None:
            raise AdminDisabledError
        if not hmac.compare_digest(authorization, self._authorization):
            raise UnauthorisedError
