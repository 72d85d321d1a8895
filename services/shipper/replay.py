"""`python -m services.shipper.replay`: replay the dead letters of the pod that runs it.

`fraudops audit replay` runs this module in each pod of a cluster. It prints one line of JSON with
the counts of a ReplayResult.
"""

import sys
from dataclasses import asdict

import msgspec

from fraudops.audit.dead_letters import DeadLetters
from fraudops.errors import FraudopsError
from fraudops.settings import ShipperSettings
from fraudops.state import State


def main() -> None:
    try:
        done = DeadLetters(State.at(ShipperSettings.from_environment().state).spool).replay()
    except FraudopsError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    sys.stdout.write(msgspec.json.encode(asdict(done)).decode() + "\n")


if __name__ == "__main__":
    main()
