"""Quick drawing without matplotlib: arrays of palette indices in, one image with a palette out."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib import colormaps, get_data_path
from matplotlib.colors import to_rgb
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from mmccd.viz import FOUND, HIDDEN, TRUTH, WRONG

GREYS, HOT, SHADES = 96, 96, 16  # palette entries: greys, the heat scale, and the shades of each overlay colour
WHITE = GREYS - 1
OVERLAYS = {"hidden": HIDDEN, "found": FOUND, "wrong": WRONG, "truth": TRUTH}
TITLE, NOTE, HEADER, FOOTER, GAP = 24, 19, 36, 62, 8  # pixels: letters, and the space around a picture


def make_palette() -> np.ndarray:
    """The 256 colours, uint8 (256 3): greys, heat, and each overlay colour over grey, its last shade being pure."""
    grey = np.linspace(0, 1, GREYS)[:, None].repeat(3, 1)
    heat = colormaps["inferno"](np.linspace(0, 1, HOT))[:, :3]
    under = np.append(np.linspace(0, 1, SHADES - 1), np.nan)[:, None]
    overlays = [
        np.where(np.isnan(under), to_rgb(c), 0.3 * under + 0.7 * np.array(to_rgb(c))) for c in OVERLAYS.values()
    ]
    return (np.concatenate([grey, heat, *overlays]) * 255).round().astype(np.uint8)


PALETTE = make_palette()


def shade(values: ArrayLike, low: float, high: float, hot: bool = False) -> np.ndarray:
    """Values as palette indices, uint8 of the same shape, on a fixed scale.

    Args:
        values: Any shape.
        low: The value of the first colour; smaller ones get it too.
        high: The value of the last colour; larger ones get it too.
        hot: Use the heat scale instead of grey.
    """
    share = np.clip((np.asarray(values, np.float32) - low) / (high - low), 0, 1)
    return (share * (HOT - 1) + 0.5).astype(np.uint8) + (GREYS if hot else 0)


def pure(name: str) -> int:
    """Palette index of an overlay colour (a key of `OVERLAYS`) with nothing below it."""
    return GREYS + HOT + SHADES * (list(OVERLAYS).index(name) + 1) - 1


def overlay_colours(grey: np.ndarray, **where: np.ndarray) -> np.ndarray:
    """Lay transparent colours over parts of a grey picture.

    Args:
        grey: Grey palette indices, uint8 (h w).
        **where: Mask, bool (h w), by key of `OVERLAYS`; later ones lie on top.

    Returns:
        Palette indices, uint8 (h w).
    """
    out, under = grey, grey.astype(int) * (SHADES - 2) // (GREYS - 1)
    for name, mask in where.items():
        out = np.where(mask, pure(name) - SHADES + 1 + under, out)
    return out.astype(np.uint8)


@dataclass(frozen=True)
class Tile:
    """One picture of the row; all its colours are palette indices.

    Attributes:
        title: Text above it.
        pixels: uint8 (h w).
        outlines: (bool mask (h w), colour), drawn at full resolution.
        bar: (low, high, hot) of its colour bar, or None.
        marks: (value, sign) on the bar: the sign stands below it, and "" draws a line across it.
        note: Lines of text below the picture, where there is no bar.
    """

    title: str
    pixels: np.ndarray
    outlines: tuple[tuple[np.ndarray, int], ...] = ()
    bar: tuple[float, float, bool] | None = None
    marks: tuple[tuple[float, str], ...] = ()
    note: tuple[str, ...] = ()


@lru_cache(4096)
def text_image(text: str, size: int = 21) -> np.ndarray:
    """A line of text in letters of `size` pixels, dark on white, uint8 (h w); drawn once and cached."""
    font = ImageFont.truetype(str(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)
    left, _, right, _ = font.getbbox(text)
    up, down = font.getmetrics()
    page = Image.new("L", (int(max(right - min(left, 0), 1)), up + down), 255)
    ImageDraw.Draw(page).text((0, 0), text, fill=0, font=font)
    return shade(np.asarray(page), 0, 255)


def fit_text(text: str, width: int, size: int) -> np.ndarray:
    """A line of text as in `text_image`, in letters of `size` pixels or less, so that it is not wider than `width`."""
    while size > 9 and text_image(text, size).shape[1] > width:
        size -= 1
    return text_image(text, size)


def paste(canvas: np.ndarray, picture: np.ndarray, top: int, left: int) -> None:
    """Copy a picture into `canvas` with its upper left corner at (`top`, `left`); what hangs over is cut off."""
    h, w = (max(min(a, b - c), 0) for a, b, c in zip(picture.shape, canvas.shape, (top, left)))
    canvas[top : top + h, left : left + w] = picture[:h, :w]


def inner_edge(mask: np.ndarray, n: int = 2) -> np.ndarray:
    """The inner rim of a mask, `n` pixels wide, bool (h w); the border of the picture counts as outside."""
    p = np.pad(mask, n)
    return mask & ~(p[2 * n :, n:-n] & p[: -2 * n, n:-n] & p[n:-n, 2 * n :] & p[n:-n, : -2 * n])


def draw_bar(canvas: np.ndarray, tile: Tile, top: int, width: int) -> None:
    """Draw the colour bar of a tile, if it has one, into `canvas`: from row `top` on, `width` pixels wide."""
    if tile.bar is None:
        return
    low, high, hot = tile.bar
    paste(canvas, shade(np.linspace(low, high, width)[None].repeat(14, 0), low, high, hot), top, GAP // 2)
    first, last = text_image(f"{low:g}".replace("-", "−"), NOTE), text_image(f"{high:.3g}", NOTE)
    paste(canvas, first, top + 28, GAP // 2)
    paste(canvas, last, top + 28, width + GAP // 2 - last.shape[1])
    for value, sign in tile.marks:
        at = GAP // 2 + round(min(max((value - low) / (high - low), 0), 1) * (width - 4))
        if sign:
            glyph = text_image(sign, 15)
            paste(canvas, glyph, top + 13, at + 2 - glyph.shape[1] // 2)
        else:
            canvas[top - 5 : top + 19, at : at + 4] = pure("found")


def draw_tile(tile: Tile, scale: int, letters: int = TITLE) -> np.ndarray:
    """A tile with its title, and its bar or note, uint8 (h w).

    Args:
        tile: What to draw.
        scale: Pixels of the screen for one of the slice.
        letters: Height of the title's letters in pixels.
    """
    picture = tile.pixels.repeat(scale, 0).repeat(scale, 1)
    for mask, colour in tile.outlines:
        picture[inner_edge(np.asarray(mask).repeat(scale, 0).repeat(scale, 1), max(round(0.6 * scale), 2))] = colour
    h, w = picture.shape
    canvas = np.full((HEADER + h + FOOTER, w + GAP), WHITE, np.uint8)
    paste(canvas, text_image(tile.title, letters), 2, GAP // 2)
    paste(canvas, picture, HEADER, GAP // 2)
    for k, line in enumerate(tile.note):
        paste(canvas, fit_text(line, w, NOTE), HEADER + h + 4 + 24 * k, GAP // 2)
    draw_bar(canvas, tile, HEADER + h + 8, w)
    return canvas


def title_size(tiles: Sequence[Tile], width: int) -> int:
    """Height of the letters in which all titles fit into `width` pixels."""
    for size in range(TITLE, 9, -1):
        if all(text_image(t.title, size).shape[1] <= width for t in tiles):
            return size
    return 9


def draw(tiles: Sequence[Tile], rows: int = 1, width: int | None = None) -> Image.Image:
    """Tiles of one size, side by side in `rows` rows, as an image with a palette.

    Args:
        tiles: What to draw, left to right.
        rows: Rows of pictures.
        width: Width of the image in pixels, about, since a pixel of the slice takes a whole number of them; None is
            1920, or 1280 in two rows.
    """
    n, width = -(-len(tiles) // rows), width or (1920 if rows == 1 else 1280)
    scale = max(round((width / n - GAP) / tiles[0].pixels.shape[1]), 1)
    letters = title_size(tiles, scale * tiles[0].pixels.shape[1] + GAP // 2)
    drawn = [draw_tile(t, scale, letters) for t in tiles]
    drawn += [np.full_like(drawn[0], WHITE)] * (n * rows - len(tiles))
    canvas = np.concatenate([np.concatenate(drawn[i : i + n], 1) for i in range(0, n * rows, n)])
    image = Image.fromarray(canvas)
    image.putpalette(PALETTE.tobytes())
    return image


def png_of(image: Image.Image) -> bytes:
    """An image as a PNG file; little compression, since speed counts more here."""
    out = BytesIO()
    image.save(out, "png", compress_level=1)
    return out.getvalue()


def gif_of(frames: Sequence[Image.Image], seconds: float) -> bytes:
    """Images as a GIF file that repeats itself, each shown for `seconds`, the last one three times as long."""
    out, times = BytesIO(), [round(1000 * seconds)] * (len(frames) - 1) + [round(3000 * seconds)]
    frames[0].save(out, "gif", save_all=True, append_images=frames[1:], duration=times, loop=0)
    return out.getvalue()
