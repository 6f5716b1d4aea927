"""The explorer without widgets: masked cycles computed, drawn and described."""

from dataclasses import replace
from typing import Any

from PIL import Image

from mmccd.explorer.canvas import Tile, draw, gif_of, png_of
from mmccd.explorer.choose import first_view, nearest_view
from mmccd.explorer.describe import describe, python_lines
from mmccd.explorer.engine import Engine
from mmccd.explorer.render import tiles_of
from mmccd.explorer.view import View


class Explorer(Engine):
    """Masked cycles of one subject: computed when they are needed, cached, drawn and described.

    Example:
        explorer = Explorer(phantom_subject("glioma"))
        view = explorer.first_view()
        explorer.image(view).save("view.png")
    """

    def first_view(self, **fields: Any) -> View:
        """The view to begin with: the slice with most lesion, a strip through it, and the given fields."""
        return first_view(self, **fields)

    def nearest_view(self, view: View) -> View:
        """The view that exists for this subject and is nearest to `view`."""
        return nearest_view(self, view)

    def describe(self, view: View) -> str:
        """What the picture shows, in a few sentences."""
        return describe(self, view)

    def tiles(self, view: View) -> list[Tile]:
        """The pictures of the row, left to right."""
        return tiles_of(self, view)

    def image(self, view: View, width: int | None = None) -> Image.Image:
        """The row of pictures, about `width` pixels wide."""
        return draw(self.tiles(view), view.rows, width)

    def png(self, view: View) -> bytes:
        """The row of pictures as a PNG file."""
        return png_of(self.image(view))

    def gif(self, view: View, over: str = "strips", seconds: float = 0.4) -> bytes:
        """The row of pictures as an animated GIF file.

        Args:
            view: The view.
            over: What changes from frame to frame: the "strips" of the sweep, or the denoising "steps".
            seconds: Time that a frame is shown.
        """
        if over == "strips":
            views = [replace(view, swept=k, by_hand=False) for k in range(1, len(self.masks(view)) + 1)]
        elif over == "steps":
            views = [replace(view, step=k) for k in range(1, len(self.trace(view, view.shown_mask).steps) + 1)]
        else:
            raise ValueError(f"a GIF moves over strips or steps, got {over!r}")
        return gif_of([self.image(v) for v in views], seconds)

    def lines(self, view: View) -> str:
        """Python that makes the picture again."""
        return python_lines(self, view)
