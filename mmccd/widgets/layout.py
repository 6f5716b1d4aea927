"""Axes at fixed places: quick to draw, and they do not jump when a control is moved."""

from typing import Any

from mmccd.viz import Sheet


def fixed_axes(sheet: Sheet, *boxes: tuple[float, float, float, float]) -> list[Any]:
    """Axes in boxes of inches from the lower left corner of the sheet: left, bottom, width, height."""
    sheet.set_layout_engine("none")
    w, h = sheet.get_figwidth(), sheet.get_figheight()
    found = [sheet.add_axes((x / w, y / h, dx / w, dy / h)) for x, y, dx, dy in boxes]
    for ax in found:
        ax.spines[["top", "right"]].set_visible(False)
    return found
