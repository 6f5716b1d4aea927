"""The paper's tables: every method trained, measured on the same slices, and set beside what was published."""

from importlib import import_module
from typing import Any

from mmccd.aliases import old_names

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
__all__ = [*_PLACES]

_moved = old_names(__name__, depth=1)


def __getattr__(name: str) -> Any:
    """Import a name when it is first used, as PyTorch takes its time; names of version 0.1 come with a warning."""
    if name in _PLACES:
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    return _moved(name)
