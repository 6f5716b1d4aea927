"""The command `mmccd`: one thin module a command, each of which registers itself."""

from mmccd.cli import benchmark, demo, detect, evaluate, explore, phantom, prepare, train  # noqa: F401
from mmccd.cli.app import app, main

__all__ = ["app", "main"]
