"""`python -m services.inference`: read the settings from the environment, then serve."""

import gc
import logging
import os
import sys

from fraudops import logs
from fraudops.errors import FraudopsError, SettingsError
from fraudops.settings import InferenceSettings
from fraudops.signing.kept import require_keys
from fraudops.spool.volume import claim
from fraudops.state import State
from services.inference.folders import make_folders
from services.inference.http.client_auth.files import check_files

logger = logging.getLogger("services.inference")


def main() -> None:
    logs.configure("info", "inference")
    try:
        _refuse_arguments(sys.argv[1:])
        settings = InferenceSettings.from_environment()
        logs.configure(settings.log_level, "inference")
        state = State.at(settings.state)
        require_keys(settings.signing.public_keys_of(state))
        check_files(settings.client_auth)
        if settings.spool_volume:
            claim(settings.spool_volume, settings.pod, state.spool)
        make_folders(state)
    except FraudopsError as error:
        logger.error(str(error))
        sys.exit(error.exit_code)
    # OpenBLAS and prometheus-client read these at import, so set them before importing the
    # server. One row needs no BLAS threads; the workers share the folder of metric files.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(state.metrics)
    # Imports leave almost no garbage, and the search for it takes an eighth of their time.
    # `serve` enables the collection again.
    gc.disable()
    from services.inference.server import serve

    serve(settings)


def _refuse_arguments(arguments: list[str]) -> None:
    if arguments:
        raise SettingsError(
            "this program takes no arguments: set environment variables instead; "
            "`fraudops settings` lists them"
        )


if __name__ == "__main__":
    main()
