"""Detectors for the toy cases, and what the command line says when it refuses."""

import torch

from mmccd.detector import Detector, Threshold

DETECT = ("detect", "--weights", "threshold")
"""The command in its quickest form: its default, the ensemble, loads networks."""


def ready(detector: Detector | None = None, threshold: float = 2.0) -> Detector:
    "A detector that is calibrated."
    detector = detector or Threshold(input="flair")
    detector.calibration = {"threshold": threshold, "fpr": 0.01, "data": "toy"}
    return detector


class Noisy(Threshold):
    "Draws one slice's noise for all slices of a call."

    def score(self, x, brain, generator=None):
        return super().score(x, brain) + torch.rand(1, *x.shape[1:], generator=generator, device=x.device)


def refused(answer, *words):
    "Exit code 2, one sentence on standard error with `words` in it, nothing on standard output."
    code, out, err = answer
    assert (code, out, err.count("\n")) == (2, "", 1), answer
    assert err.startswith("mmccd: "), answer
    assert "Traceback" not in err, answer
    for w in words:
        assert str(w) in err, err
