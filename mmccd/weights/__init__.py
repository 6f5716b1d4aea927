"""Detectors on disk: where they lie (a folder, the package, the hub), and what their two files hold."""

from mmccd.weights.hub import packaged
from mmccd.weights.storage import read_weights, write_weights

__all__ = ["packaged", "read_weights", "write_weights"]
