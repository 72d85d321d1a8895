"""`python -m services.inference`: settings from the environment, then gunicorn."""

import logging
import os
import sys

from fraudops import logs
from fraudops.errors import FraudopsError, SettingsError
from fraudops.settings import InferenceSettings
from fraudops.spool.volume import claim
from fraudops.state import State
from services.inference.folders import make_folders

logger = logging.getLogger("services.inference")


def main() -> None:
    logs.configure("info", "inference")
    try:
        _refuse_arguments(sys.argv[1:])
        settings = InferenceSettings.from_environment()
        logs.configure(settings.log_level, "inference")
        state = State.at(settings.state)
        if settings.spool_volume:
            claim(settings.spool_volume, settings.pod, state.spool)
        make_folders(state)
    except FraudopsError as error:
        logger.error(str(error))
        sys.exit(error.exit_code)
    # Both must be set before what reads them at its import: one row needs no threads, and workers
    # share metric files.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(state.metrics)
    from services.inference.server import serve

    serve(settings)


def _refuse_arguments(given: list[str]) -> None:
    if given:
        raise SettingsError(
            "no arguments are taken: every setting comes from the environment; `fraudops settings` lists them"
        )


if __name__ == "__main__":
    main()
