"""Moved to mmccd.cases; the old names work until 0.3.0 (mmccd/aliases.py)."""

from mmccd.aliases import old_names

__getattr__ = old_names(__name__)
