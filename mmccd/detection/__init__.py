"""Whole cases: from files to anomaly maps, reports and scores."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmccd.detection.calibration import recalibrate
    from mmccd.detection.detect import detect_case, detect_many
    from mmccd.detection.evaluation import evaluate
    from mmccd.detection.report import Detection

__all__ = ["Detection", "detect_case", "detect_many", "evaluate", "recalibrate"]

_MODULES = {
    "Detection": "report",
    "detect_case": "detect",
    "detect_many": "detect",
    "evaluate": "evaluation",
    "recalibrate": "calibration",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, since PyTorch takes seconds."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
