"""What older files call things: the one map from the names in stored weights to those of today."""

import re
from typing import Any

FIELDS: dict[str, str] = {}
"""Fields of configs that were renamed, old to new; they are looked for at every depth."""

VALUES: dict[str, dict[Any, Any]] = {}
"""Values that were renamed, by the field's name of today: old to new."""

TENSORS: dict[str, str] = {}
"""Tensors that were renamed: a pattern that matches the beginning of the old name, and what takes its place."""


def stored_class(about: dict[str, Any]) -> str:
    """The name of a detector's class in `config.json`.

    Version 0.1.0 stored the class name and its module. Of the package's own classes the class name alone is enough, the
    table of methods knows it; anybody else's class is called `"module:Class"` today.

    Raises:
        KeyError: The file names no class.
    """
    name, module = about["detector"], about.get("module")
    if module is None or f"{module}.".startswith("mmccd."):
        return name
    return f"{module}:{name}"


def upgrade_config(config: Any) -> Any:
    """A stored config, or a part of it, with the names of today."""
    if isinstance(config, dict):
        renamed = {FIELDS.get(k, k): upgrade_config(v) for k, v in config.items()}
        return {k: VALUES.get(k, {}).get(v, v) if isinstance(v, str) else v for k, v in renamed.items()}
    return [upgrade_config(v) for v in config] if isinstance(config, list) else config


def upgrade_tensors(tensors: dict[str, Any]) -> dict[str, Any]:
    """Stored tensors by their names of today."""

    def renamed(name: str) -> str:
        for old, new in TENSORS.items():
            name = re.sub(f"^(?:{old})", new, name)
        return name

    return {renamed(name): v for name, v in tensors.items()}
