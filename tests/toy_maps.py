"Small test sets of anomaly maps for the tests of protocols."

import numpy as np
from scipy import ndimage


def slices(seed=0, n=3, well=2, size=40, shift=1.5):
    "Maps, truths and brains of `n` slices with a lesion and of `well` healthy ones; the first lesion reaches the rim."
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    out = []
    for k in range(n + well):
        brain = (y - size / 2) ** 2 / (0.40 + 0.05 * rng.random()) ** 2 + (x - size / 2) ** 2 / (
            0.32 + 0.05 * rng.random()
        ) ** 2 < size**2
        cy, cx = (size / 2, 0.26 * size) if k == 0 else rng.uniform(0.38, 0.62, 2) * size
        truth = brain & ((y - cy) ** 2 + (x - cx) ** 2 < (0.08 * size + 2 * rng.random()) ** 2) & (k < n)
        score = ndimage.gaussian_filter(rng.random((size, size)), 1) * 3 + shift * ndimage.gaussian_filter(
            truth.astype(float), 1
        )
        out.append((np.where(brain, score, 0).astype(np.float32), truth, brain))
    return [list(v) for v in zip(*out)]


def others(seed=99, n=4):
    maps, _, brains = slices(seed, 0, n)
    return maps, brains
