"""URLs that may contain a password, and the parts of them that a message may show.

An unescaped `/`, `?`, `#` or `@` in a password ends the user information early. The rest of the
password then looks like a port, a path or a host. A message therefore quotes no part of a malformed
URL. The errors of the libraries quote it, so a message does not include them either.
"""

from urllib.parse import SplitResult, urlsplit

from fraudops.errors import SettingsError


def malformed(name: str) -> SettingsError:
    """Return the error for a URL that cannot be read; `name` is its setting."""
    return SettingsError(
        f"{name} is not a valid URL: percent-encode user and password, for example / as %2F, "
        "? as %3F, # as %23, @ as %40 and % as %25, and give the port as a number"
    )


def unreadable_certificates(error: OSError) -> SettingsError:
    """Return the error for a client that cannot read the certificates which it must trust."""
    return SettingsError(
        f"SSL_CERT_FILE or SSL_CERT_DIR names no certificates that can be read ({error}): "
        "correct the variable, or remove it"
    )


def split_url(url: str, name: str) -> SplitResult:
    """Return the parts of the URL in the setting `name`.

    Raises SettingsError, which quotes no part of the URL, when it is malformed or when a part of
    its password may be outside the user information.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        # `from None`: the message of the cause quotes the URL, and a stack trace would show it.
        raise malformed(name) from None
    # One @ ends the user information. If there are several, libraries disagree about which one
    # does, so no part of the URL is safe to show.
    outside = (parts.path, parts.query, parts.fragment)
    if parts.netloc.count("@") > 1 or any("@" in part for part in outside):
        raise malformed(name)
    return parts


def without_credentials(parts: SplitResult) -> str:
    """Return the URL without user information, query and fragment, so that a message may show it.

    The query of a presigned URL is a credential too.
    """
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    return bare.geturl()
