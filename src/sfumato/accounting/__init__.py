"""The door to dp_accounting: neutral events in, epsilon out. Whatever is not in the table of `conventions` is refused.

Every figure that leaves this room holds for real-number arithmetic; `delta` is charged for the rounding of the
convolutions (`epsilon.ROUNDING_PER_STEP`).
"""

from sfumato.accounting.attack import max_true_positive_rate
from sfumato.accounting.calibrate import calibrate_batch, calibrate_noise_multiplier, calibrate_steps
from sfumato.accounting.conventions import Accountant, supported
from sfumato.accounting.epsilon import epsilon, epsilon_pld, epsilon_rdp
from sfumato.accounting.tan import tan_eta

__all__ = [
    "Accountant",
    "calibrate_batch",
    "calibrate_noise_multiplier",
    "calibrate_steps",
    "epsilon",
    "epsilon_pld",
    "epsilon_rdp",
    "max_true_positive_rate",
    "supported",
    "tan_eta",
]
