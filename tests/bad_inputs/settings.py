"""Settings that cannot work."""

from bad_inputs.case import BadInput, plan

CASES = [
    BadInput("an alpha above 1", plan("method.alpha=1.5"), ("alpha = 1.5", "must lie in [0, 1]")),
]
