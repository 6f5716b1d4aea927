"""The paper's tables: every method trained, measured on the same slices, and set beside what was published."""

from importlib import import_module
from typing import Any

_PLACES = {
    "Plan": "plan",
    "Recipe": "plan",
    "RECIPES": "plan",
    "ScanSource": "plan",
    "split_lists": "plan",
    "run_benchmark": "run",
    "describe_plan": "run",
    "table_one": "tables",
    "table_two": "tables",
    "all_tables": "tables",
}
__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for, as PyTorch takes its time."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
