"""Groups of settings for the boundary of the inference service: HTTP and its clients."""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from fraudops.settings.groups import Group
from fraudops.urls import split_url

Origin = Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.:\[\]-]+$")]


class HttpSettings(Group):
    """Limits of each connection and request, and what HTTP shows to clients."""

    access_log: bool = Field(
        False,
        description="Log a JSON line for each answer: method, endpoint, status, seconds, bytes, "
        "request id and client. It holds no path, no query and no body.",
    )
    root_path: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="Prefix that a proxy strips before it calls the service, such as `/fraud`. "
        "The OpenAPI document and its pages show it.",
    )
    cors_origins: tuple[Origin, ...] = Field(
        (),
        description="Origins whose pages may call the service, as JSON, such as "
        '["https://desk.example.com"]. A request with an `Origin` leaves the fast path.',
    )
    max_connections: int = Field(
        2000,
        ge=64,
        description="Highest number of open connections of each worker. Above it one that waits "
        "for its client is closed, and if none does, the new one is refused with 503.",
    )
    head_seconds: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="Seconds from the first byte of a request to the end of its headers.",
    )
    body_seconds: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Seconds from the end of the headers to the last byte of the body.",
    )
    idle_seconds: float = Field(
        75.0,
        gt=0,
        le=86_400,
        description="Seconds after which a connection without a request is closed. Keep them above "
        "the idle time of your clients and proxies, so that these close first.",
    )
    body_bytes_in_flight: int = Field(
        64 << 20,
        ge=32 << 20,
        description="Bytes of request bodies that each worker holds in memory at the same time.",
    )


class ClientAuthSettings(Group):
    """Authentication of the clients of the service, by API keys or JSON Web Tokens."""

    mode: Literal["disabled", "optional", "required"] = Field(
        "disabled",
        description="Whether clients authenticate. With `optional`, a request without a credential "
        "is answered too, but one with a wrong credential is not.",
    )
    keys_file: Path | None = Field(
        None, description="File with the API keys' hashes, which `fraudops api-keys` writes."
    )
    rate_per_second: float | None = Field(
        None,
        gt=0,
        description="Transactions a second for a client without a rate of its own. Each worker "
        "counts for itself. If unset, there is no limit.",
    )
    jwt_issuer: str | None = Field(None, description="Required claim `iss` of a token.")
    jwt_audience: str | None = Field(None, description="Required claim `aud` of a token.")
    jwt_scope_claim: str = Field(
        "scope",
        min_length=1,
        description="Claim with the scopes of a token: a text with spaces between them, or a list.",
    )
    jwt_client_claim: str = Field(
        "sub", min_length=1, description="Claim with the name of the client, for the audit."
    )
    jwks_file: Path | None = Field(
        None, description="File with the public keys of the tokens' issuer, as a JWKS."
    )
    jwks_url: str | None = Field(
        None,
        description="URL of the JWKS, by https, or by http on a loopback address. Set this or "
        "jwks_file.",
    )

    @field_validator("jwks_url")
    @classmethod
    def _check_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = split_url(value, "FRAUDOPS_CLIENT_AUTH__JWKS_URL")
        secret = parts.scheme == "https" or (parts.scheme == "http" and _is_local(parts.hostname))
        if not secret or not parts.hostname:
            raise ValueError("the URL must begin with https:// and name a host")
        return value

    @model_validator(mode="after")
    def _check_sources(self) -> Self:
        jwks = self.jwks_file or self.jwks_url
        if self.mode != "disabled" and not (self.keys_file or jwks):
            raise ValueError(f"mode {self.mode} needs keys_file, jwks_file or jwks_url")
        if self.jwks_file and self.jwks_url:
            raise ValueError("set either jwks_file or jwks_url")
        if jwks and not (self.jwt_issuer and self.jwt_audience):
            raise ValueError("a JWKS needs jwt_issuer and jwt_audience")
        return self


def _is_local(host: str | None) -> bool:
    """Return whether the host is this machine, so that no one between can change the answer."""
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False
