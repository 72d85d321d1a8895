"""The URL of a PostgreSQL database, read once and alike for every driver.

libpq (psycopg), asyncpg and SQLAlchemy disagree about URLs. SQLAlchemy knows one host only. asyncpg
takes an option that only libpq knows for a setting of the server, which then refuses the
connection. So this module reads the URL, and gives each driver its parts.

A value may also be `file:PATH`: the file holds the URL. The option `password_file=PATH` names a
file with the password alone. Both are read for each new connection, so that a mounted Secret may
change while a program runs. So are the files of TLS. Reading the URL reads none of them, so that a
message can name the host while a file is wrong.
"""

import os
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode

from fraudops.errors import SettingsError
from fraudops.urls import malformed, split_url

PORT = "5432"
# For the connection to one host, without `connect_timeout`. Several hosts are asked in turn.
CONNECT_SECONDS, HOST_SECONDS = 10, 5
FILE, PASSWORD_FILE = "file:", "password_file"
# A value of `sslrootcert` that means the certificates of the operating system, as in libpq.
SYSTEM = "system"
CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    # Not `prefer-standby`: asyncpg would take the first of several hosts, whatever it is.
    "target_session_attrs": ("any", "primary", "read-write", "standby", "read-only"),
    # asyncpg has neither. "require" must not be ignored, so it is refused.
    "channel_binding": ("disable", "prefer"),
    "gssencmode": ("disable", "prefer"),
}
# Options of libpq that asyncpg does not know and that decide nothing about safety. `connect` reads
# the first one itself.
LIBPQ_ONLY = frozenset(
    (
        *("connect_timeout", "channel_binding", "gssencmode", "tcp_user_timeout"),
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
        *("fallback_application_name", "sslcompression", "sslsni"),
    )
)
PARTS = ("host", "port", "user", "password", "dbname", "database")
UNSUPPORTED = ("require_auth", "requirepeer", "sslcertmode", "load_balance_hosts")
NOT_WITH_SYSTEM = ("ssl_min_protocol_version", "ssl_max_protocol_version", "sslcrl")
HOST = re.compile(
    r"(\[(?P<bracketed>[0-9a-fA-F:.%]+)\]|(?P<host>[^\[\]:]+))(:(?P<port>[0-9]{1,5}))?"
)
BAD_ESCAPE = re.compile("%(?![0-9a-fA-F]{2})")
Hosts = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class DatabaseUrl:
    """The parts of a URL. Empty texts are parts that it does not have."""

    hosts: Hosts
    user: str
    password: str = field(repr=False)
    database: str
    options: Mapping[str, str] = field(repr=False)
    password_file: str = ""
    # The setting that holds the URL, for messages.
    variable: str = "DATABASE_URL"

    @property
    def host_list(self) -> str:
        """Hosts and ports, as the URL lists them."""
        return ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        )

    @property
    def address(self) -> str:
        """Hosts, ports and database, for messages: no user and no password."""
        return f"{self.host_list or f'localhost:{PORT}'}/{self.database}".removesuffix("/")

    @property
    def connect_seconds(self) -> int:
        """Return the seconds after which the connection to one host has failed."""
        default = HOST_SECONDS if len(self.hosts) > 1 else CONNECT_SECONDS
        return int(self.options.get("connect_timeout", default))

    def read_password(self) -> str:
        """Return the password, from its file if there is one. Raises SettingsError."""
        if not self.password_file:
            return self.password
        # Only the line break that editors add goes away: a password may end with a space.
        return _content(self.password_file, self.variable).rstrip("\r\n")

    def for_asyncpg(self) -> dict[str, Any]:
        """Return the arguments of `asyncpg.connect` except the host and the port.

        asyncpg takes options of TLS only from a URL, so they are in one without a password. Raises
        SettingsError for a file that cannot be used.
        """
        options = {key: value for key, value in self.options.items() if key not in LIBPQ_ONLY}
        context = self._load_tls()
        return {
            "dsn": "postgresql://" + (f"?{urlencode(options, quote_via=quote)}" if options else ""),
            "user": self.user or None,
            "password": self.read_password() or None,
            "database": self.database or None,
            # With a context, asyncpg reads no other option of TLS.
            **({"ssl": context} if options.get("sslrootcert") == SYSTEM else {}),
        }

    def for_psycopg(self) -> dict[str, Any]:
        """Return the arguments of `psycopg.connect`.

        Raises SettingsError for a file that cannot be used.
        """
        self._load_tls()
        hosts = {
            "host": ",".join(host for host, _ in self.hosts),
            "port": ",".join(str(port) for _, port in self.hosts),
        }
        named = {"user": self.user, "password": self.read_password(), "dbname": self.database}
        return {
            **self.options,
            **{key: value for key, value in (hosts | named).items() if value},
            "connect_timeout": self.connect_seconds,
            **({"sslrootcert": ""} if self._is_unverified else {}),
            # A prepared statement stays on one connection of the server, and PgBouncer in
            # transaction mode gives the next transaction another one.
            "prepare_threshold": None,
        }

    @property
    def _is_unverified(self) -> bool:
        """Return whether libpq must not know a CA, neither of the URL nor of PGSSLROOTCERT.

        With `prefer` and a CA, libpq connects without TLS when the certificate does not fit. With
        no CA it encrypts and does not verify, as asyncpg does.
        """
        mode = self.options.get("sslmode") or os.environ.get("PGSSLMODE") or "prefer"
        return mode in ("allow", "prefer") and self.options.get("sslrootcert") != SYSTEM

    def _load_tls(self) -> ssl.SSLContext:
        """Load the files of TLS, so that a wrong one is not reported as a server that is down.

        The context verifies certificates as `system` does in libpq, which implies verify-full.
        """
        options, root = self.options, self.options.get("sslrootcert", SYSTEM)
        if root == SYSTEM:
            context = ssl.create_default_context()
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            with _usable("sslrootcert", self.variable):
                context.load_verify_locations(root)
        if "sslcert" in options:
            with _usable("sslcert or sslkey", self.variable):
                # Without a callback, an encrypted key would ask for its password on the terminal.
                context.load_cert_chain(
                    options["sslcert"],
                    options.get("sslkey"),
                    lambda: options.get("sslpassword", ""),
                )
        return context


def read_database_url(value: str, name: str = "DATABASE_URL") -> DatabaseUrl:
    """Return the parts of the URL in the setting `name`.

    `postgres://` and any `postgresql+driver://` are accepted. Of the files only that of `file:PATH`
    is read. Raises SettingsError, which never quotes the URL.
    """
    if value.startswith(FILE):
        value = _content(_decoded(_path(value), name), name).strip()
    scheme, separator, rest = value.partition("://")
    if not separator or scheme.split("+")[0] not in ("postgresql", "postgres"):
        raise SettingsError(
            f"{name} must begin with postgresql:// (postgres:// means the same), "
            "or be file:PATH of a file with such a URL"
        )
    (user, password), listed, path, options = _split(rest, name)
    # libpq's other form of a URL has these parts in the query.
    query = {key: options.pop(key, "") for key in PARTS}
    hosts = _hosts(_one_of(name, listed, query["host"]), query["port"], name)
    user, password = _one_of(name, user, query["user"]), _one_of(name, password, query["password"])
    database = _one_of(name, path, query["dbname"], query["database"])
    if len(hosts) > 1:
        # After a failover the old primary may return as a standby, which refuses each row.
        options.setdefault("target_session_attrs", "read-write")
    password_file = options.pop(PASSWORD_FILE, "")
    _check(options, name)
    return DatabaseUrl(hosts, user, password, database, options, password_file, name)


def address(value: str) -> str:
    """Return what a message may show of a URL: hosts, ports and database, or its file."""
    try:
        return read_database_url(value).address
    except SettingsError:
        return f"the URL in {value.removeprefix(FILE)}" if value.startswith(FILE) else "its URL"


def given(value: str | None) -> str | None:
    """Return the value of an optional setting; None if it is empty, or a `file:` without its file.

    A key that an optional Secret lacks has no file in the Secret's volume. A file that exists and
    cannot be read counts as given, so that reading the URL reports it.
    """
    if value and value.startswith(FILE):
        try:
            Path(unquote(_path(value))).stat()
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return value
    return value or None


def _path(value: str) -> str:
    """Return the path of a value `file:PATH` or `file://PATH`, with its escapes."""
    return value.removeprefix(FILE).removeprefix("//")


def _one_of(name: str, *places: str) -> str:
    """Return the part that one place at most gives. Raises SettingsError if two places do.

    The drivers disagree about a part that stands in both.
    """
    found = [place for place in places if place]
    if len(found) > 1:
        raise SettingsError(f"{name} gives a part twice: remove {', '.join(PARTS)} from its query")
    return found[0] if found else ""


def _split(rest: str, name: str) -> tuple[tuple[str, str], str, str, dict[str, str]]:
    """Return user and password, hosts, database and options of a URL without its scheme."""
    end = min((rest.find(sign) for sign in "/?#" if sign in rest), default=len(rest))
    credentials, _, hosts = rest[:end].rpartition("@")
    # `urlsplit` refuses several hosts, so it sees none.
    parts = split_url(f"postgresql://{rest[end:]}", name)
    if parts.fragment or any(sign in credentials for sign in "@[]"):
        raise malformed(name)
    user, _, password = credentials.partition(":")
    options = {}
    for pair in filter(None, parts.query.split("&")):
        key, separator, value = pair.partition("=")
        if not separator:
            raise malformed(name)
        options[_decoded(key, name)] = _decoded(value, name)
    return (
        (_decoded(user, name), _decoded(password, name)),
        hosts,
        _decoded(parts.path.removeprefix("/"), name),
        options,
    )


def _hosts(text: str, ports: str, name: str) -> Hosts:
    """Return the hosts of a list such as `one:5432,[::1]`; `ports` is the option `port`."""
    listed, own, hosts = text.split(",") if text else [], ports.split(","), []
    for number, each in enumerate(listed):
        found = HOST.fullmatch(each)
        # One port holds for every host, as in libpq.
        other = own[number] if number < len(own) else own[0]
        port = (found and found["port"]) or other or PORT
        if found and found["port"] and ports:
            raise SettingsError(f"{name} gives a part twice: remove port from its query")
        if not (found and port.isdecimal() and 0 < int(port) < 65536):
            raise malformed(name)
        hosts.append((_decoded(found["bracketed"] or found["host"], name), int(port)))
    return tuple(hosts)


def _decoded(text: str, name: str) -> str:
    """Decode a part of the URL. Raises SettingsError where libpq could not read it."""
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise malformed(name) from None
    # No path and no part of PostgreSQL's protocol can hold a NUL.
    if BAD_ESCAPE.search(text) or "\0" in decoded:
        raise malformed(name)
    return decoded


def _check(options: Mapping[str, str], name: str) -> None:
    """Raise SettingsError for an option that not every driver can honour."""
    for key, allowed in CHOICES.items():
        if key in options and options[key] not in allowed:
            raise SettingsError(f"{key} in {name} must be one of: {', '.join(allowed)}")
    for key in UNSUPPORTED:
        if key in options:
            raise SettingsError(f"{name} has the option {key}, which is not supported: remove it")
    timeout = options.get("connect_timeout", "1")
    # 0 means no limit to libpq. asyncpg would give up without a try.
    if not (timeout.isdecimal() and int(timeout)):
        raise SettingsError(f"connect_timeout in {name} must be a number of seconds above 0")
    if options.get("sslrootcert") == SYSTEM:
        _check_system(options, name)


def _check_system(options: Mapping[str, str], name: str) -> None:
    """Raise SettingsError for what asyncpg would ignore, and libpq refuse, with `system`."""
    if options.get("sslmode", "verify-full") != "verify-full":
        raise SettingsError(f"sslrootcert=system in {name} needs sslmode=verify-full")
    for key in NOT_WITH_SYSTEM:
        if key in options:
            raise SettingsError(
                f"{name} has the option {key}, which is not supported with sslrootcert=system: "
                "remove it, or name the file of a CA"
            )


@contextmanager
def _usable(option: str, name: str) -> Iterator[None]:
    """Raise SettingsError if a file that an option names cannot be read or parsed."""
    try:
        yield
    except OSError as error:  # ssl.SSLError is one too.
        reason = getattr(error, "reason", None) or error.strerror
        raise SettingsError(
            f"the file of {option} in {name} cannot be used ({reason}): "
            "is it mounted, and is it PEM?"
        ) from None


def _content(path: str, name: str) -> str:
    """Read a file with a secret. Raises SettingsError, which names the file, if it is unusable."""
    try:
        content = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise SettingsError(f"{path}, which {name} names, cannot be read ({reason})") from None
    if not content.strip():
        raise SettingsError(f"{path}, which {name} names, is empty")
    return content
