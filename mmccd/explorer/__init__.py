"""The explorer: masked cycles of one subject, computed on demand, drawn quickly, and shown with widgets."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmccd.explorer.explorer import Explorer
    from mmccd.explorer.panel import explore
    from mmccd.explorer.subjects import Subject, file_subject, phantom_subject, upload_subject
    from mmccd.explorer.view import View

__all__ = ["Explorer", "Subject", "View", "explore", "file_subject", "phantom_subject", "upload_subject"]

MODULES = {
    "Explorer": "explorer",
    "View": "view",
    "explore": "panel",
    **dict.fromkeys(("Subject", "file_subject", "phantom_subject", "upload_subject"), "subjects"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing the package costs nothing."""
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
