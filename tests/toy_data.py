"Slices in memory that a detector can be trained on, with the interface of a `SliceDataset`."

import torch
from detector_laws import toy_slices

from mmccd.translate import fill_background


class Toy:
    "Three modalities, each a function of the first, whose tissue is `change(tissue)`."

    def __init__(self, n=12, seed=0, change=None):
        x, brain = toy_slices(n, 32, 32, seed)
        if change:
            x = fill_background(change(x), brain)
        self.d = {
            "flair": x,
            "t1": fill_background(torch.sin(3 * x), brain),
            "t2": fill_background(-x, brain),
            "brain": brain,
        }

    def __len__(self):
        return len(self.d["brain"])

    def batch(self, indices):
        return {k: v[indices] for k, v in self.d.items()}
