"""Every rule that the search must find when it is switched off."""

from tests.support.simulation.decisions_off import ACTS, GATE, POD_RULES
from tests.support.simulation.steps_off import CONVERGENCE, PREPARE, PROMOTER, ROWS
from tests.support.simulation.switch_off import Off

RULES_OFF: dict[str, Off] = {
    **POD_RULES,
    **ACTS,
    **GATE,
    **PROMOTER,
    **PREPARE,
    **CONVERGENCE,
    **ROWS,
}
