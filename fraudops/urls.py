"""URLs that may carry a password: what a message may say of them.

A password with an unescaped `/`, `?`, `#` or `@` moves the parts of a URL: what follows the
character then looks like a port, a path or a host. So a malformed URL is never quoted, not even
in part. The parsers of the libraries quote it, so their errors are not shown either.
"""

from urllib.parse import SplitResult, urlsplit

from fraudops.errors import SettingsError


def malformed(name: str) -> SettingsError:
    """The error for a URL that cannot be read. `name` is its setting."""
    return SettingsError(
        f"{name} is not a valid URL: percent-encode user and password, for example / as %2F, "
        "? as %3F, # as %23, @ as %40 and % as %25, and give the port as a number"
    )


def split_url(url: str, name: str) -> SplitResult:
    """The parts of the URL in the setting `name`.

    Raises SettingsError, which quotes nothing of the URL, when a part of its password may stand
    outside the user information.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        # `from None`: the message of the cause quotes the URL, and a stack trace would show it.
        raise malformed(name) from None
    # The one @ ends the user information. Libraries disagree about which of several does.
    outside = (parts.path, parts.query, parts.fragment)
    if parts.netloc.count("@") > 1 or any("@" in part for part in outside):
        raise malformed(name)
    return parts


def without_credentials(parts: SplitResult) -> str:
    """The URL without its user information: what a message may show."""
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
