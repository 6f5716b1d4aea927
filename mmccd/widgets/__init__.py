"""Three small widgets of the lessons: what a scanner makes of a tissue, what masks hide and cost, what a score says."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmccd.widgets.panels import masks, physics, scores

__all__ = ["masks", "physics", "scores"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing the package costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.panels"), name)
