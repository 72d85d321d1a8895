"""The check of the clients' files before the first worker starts."""

from fraudops.api_keys import read_api_keys
from fraudops.settings import ClientAuthSettings


def check_files(settings: ClientAuthSettings) -> None:
    """Raise SettingsError if a file of the clients cannot be used.

    A worker would find it too, but the service would then end with the exit code of gunicorn.
    """
    if settings.mode == "disabled":
        return
    if settings.keys_file:
        read_api_keys(settings.keys_file)
    if settings.jwks_file:
        from services.inference.http.client_auth.jwks import read_jwks

        read_jwks(settings.jwks_file)
