"""Training of any detector: a folder for each run, which survives interruptions and loads as a detector.

The entry points are found here when they are first used, so that `import mmccd.training` stays quick:
`train`, `store_data`, and from the chapter about the loop `TrainConfig`, `PRESETS`, `make_config`.
"""

import importlib
from typing import TYPE_CHECKING

from mmccd.aliases import old_names

if TYPE_CHECKING:
    from mmccd.training.data import store_data
    from mmccd.training.run import train
    from mmccd.training_loop import PRESETS, TrainConfig, make_config

__all__ = ["PRESETS", "TrainConfig", "make_config", "store_data", "train"]

_moved = old_names(__name__, depth=1)  # `mmccd.training` was a single module once


def __getattr__(name: str) -> object:
    places = {"train": "mmccd.training.run", "store_data": "mmccd.training.data"}
    if name in __all__:
        return getattr(importlib.import_module(places.get(name, "mmccd.training_loop")), name)
    return _moved(name)
