"""The command `mmccd`: one thin module a command, each of which registers itself."""

from mmccd.aliases import old_names
from mmccd.cli import (  # noqa: F401
    benchmark,
    check,
    class_pack,
    demo,
    detect,
    evaluate,
    explore,
    phantom,
    prepare,
    strip,
    train,
)
from mmccd.cli.app import app, main

__all__ = ["app", "main"]

__getattr__ = old_names(__name__)
