"""What is odd about a case as a whole, and can be used all the same: one sentence each, with what to do."""

from __future__ import annotations

import numpy as np

from mmccd.cases.alignment import cut_off, shifted_modalities
from mmccd.cases.case import Case

DARKEST = {"flair": -0.33}
"""Lower quartile of the normalised brain; of 60 healthy phantoms (seed 410) it is -0.28 or more, and of real FLAIR with
less the packaged thresholds of single networks call 2 to 10 % of healthy tissue abnormal, not 1 %."""
BRIGHTEST = {"t2": 0.31}
"""Upper quartile; of those phantoms it is 0.26 or less, of real T2 with more it is 8 to 54 %. (A large lesion raises it
by a few hundredths, and does not lower the other one: so each is looked at from one side.)"""


def unfamiliar_contrast(case: Case) -> list[str]:
    """Return a sentence for each modality whose brightness is spread as in no head that the packaged weights learned
    from, so that thresholds set on such heads do not hold.

    Args:
        case: Any; only its normalised brightness counts.
    """
    notes = []
    for m in case.volumes.keys() & (DARKEST.keys() | BRIGHTEST.keys()):
        low, high = np.percentile(case.normalised(m)[case.measured(m)], [25, 75])
        wrong = "dark" * bool(low < DARKEST.get(m, -np.inf)) or "bright" * bool(high > BRIGHTEST.get(m, np.inf))
        if wrong:
            notes.append(
                f"{m}: a quarter of the brain is far {wrong}er than in heads that the packaged weights learned from, "
                "so their thresholds may not hold; set them on healthy cases of that scanner (--healthy)"
            )
    return sorted(notes)


def oddities(case: Case) -> list[str]:
    """Return what is odd about a case: cut off, modalities apart, a contrast that the weights do not know."""
    apart = shifted_modalities(case.volumes, case.brain, case.affine)
    return cut_off(case.brain, case.affine) + apart + unfamiliar_contrast(case)
