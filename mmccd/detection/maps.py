""""""

import numpy as np
import torch

from mmccd.cases.case import Case
from mmccd.detector import Detector
from mmccd.intensity import BACKGROUND, DEFAULT
from mmccd.slices import resize, resize_back, resize_labels, to_volume


def map_slices(
    detector: Detector,  # any detector
    x: torch.Tensor,  # normalised slices (b 1 h w)
    brain: torch.Tensor,  # bool (b 1 h w)
    generator=None,  # source of randomness, for detectors that draw
) -> torch.Tensor:  # (b 1 h w) float32 >= 0, zero outside the brain
    "The anomaly map, made at the size the detector was trained at."
    size = getattr(detector.config, "size", None)
    if not size:
        return detector.anomaly_map(x, brain, generator)
    edge = BACKGROUND.get(getattr(detector.config, "normalisation", DEFAULT), -1.0)
    a = detector.anomaly_map(resize(x, size, edge), resize_labels(brain, size), generator)
    return torch.where(brain, resize_back(a, x.shape[-2:]), 0.0)


def anomaly_volume(
    case: Case,  # with the modality `input`
    detector: Detector,  # need not be calibrated
    input: str,  # modality the detector looks at
    seed: int = 0,  # of the randomness, for detectors that draw
    batch_size: int = 16,  # slices at a time
) -> np.ndarray:  # (x, y, z) float32 >= 0 in LPS, zero outside the brain
    "The anomaly map of a whole case, a few slices at a time."
    x = case.slices(input, method=getattr(detector.config, "normalisation", DEFAULT))
    brain, device = case.brain_slices(), detector.device
    a = torch.zeros_like(x)
    for i in brain.flatten(1).any(1).nonzero().flatten().split(batch_size):
        generator = torch.Generator(device).manual_seed(seed)
        a[i] = map_slices(detector, x[i].to(device), brain[i].to(device), generator).cpu()
    return to_volume(a)
