"""All combinations of values that the tests render."""

from collections.abc import Mapping

from tests.chart.combinations import COMBINATIONS, Combination
from tests.chart.combinations_network import CONNECTIONS
from tests.chart.combinations_profile import PROFILES
from tests.chart.combinations_rights import RIGHTS

ALL: Mapping[str, Combination] = {**COMBINATIONS, **CONNECTIONS, **PROFILES, **RIGHTS}
