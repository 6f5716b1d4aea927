""""""

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib import colormaps, get_data_path
from matplotlib.colors import to_rgb
from PIL import Image, ImageDraw, ImageFont

from mmccd.viz import FOUND, OKABE_ITO, TRUTH, WRONG

GREYS, HOT, SHADES = 96, 96, 16


PAINTS = {"hidden": OKABE_ITO["orange"], "found": FOUND, "wrong": WRONG, "truth": TRUTH}


def palette() -> np.ndarray:  # uint8 (256 3)
    "Greys, heat, and paints over grey; the last shade of a paint is pure."
    grey = np.linspace(0, 1, GREYS)[:, None].repeat(3, 1)
    hot = colormaps["inferno"](np.linspace(0, 1, HOT))[:, :3]
    under = np.append(np.linspace(0, 1, SHADES - 1), np.nan)[:, None]
    paints = [np.where(np.isnan(under), to_rgb(c), 0.3 * under + 0.7 * np.array(to_rgb(c))) for c in PAINTS.values()]
    return (np.concatenate([grey, hot, *paints]) * 255).round().astype(np.uint8)


PALETTE = palette()


def shade(
    values,  # (h w)
    low: float,  # the value of the first colour
    high: float,  # the value of the last
    hot=False,  # heat, not grey?
) -> np.ndarray:  # uint8 (h w), places in the palette
    "Numbers into colours, on a fixed scale."
    share = np.clip((np.asarray(values, np.float32) - low) / (high - low), 0, 1)
    return (share * (HOT - 1) + 0.5).astype(np.uint8) + (GREYS if hot else 0)


def pure(
    name: str,  # a key of `PAINTS`
) -> int:
    "Its place in the palette."
    return GREYS + HOT + SHADES * (list(PAINTS).index(name) + 1) - 1


def paint_over(
    grey: np.ndarray,  # uint8 (h w), greys of the palette
    **where,  # bool (h w) by key of `PAINTS`
) -> np.ndarray:  # uint8 (h w)
    "Lay paints over parts of a grey picture."
    out, under = grey, grey.astype(int) * (SHADES - 2) // (GREYS - 1)
    for name, mask in where.items():
        out = np.where(mask, pure(name) - SHADES + 1 + under, out)
    return out.astype(np.uint8)


@dataclass(frozen=True)
class Tile:
    "One picture of the row."

    title: str  # above it
    pixels: np.ndarray  # uint8 (h w), places in the palette
    outlines: tuple = ()  # (bool (h w), place in the palette), drawn at full resolution
    bar: tuple = ()  # (low, high, hot) of its scale, or ()
    marks: tuple = ()  # (value, sign below the bar or "" for a line on it)
    note: tuple = ()  # lines below it, where there is no bar


@lru_cache(4096)
def word(
    text: str,  # one line
    size: int = 21,  # pixels
) -> np.ndarray:  # uint8 (h w), greys of the palette on white
    "A line of text, drawn once."
    font = ImageFont.truetype(str(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)
    left, _, right, _ = font.getbbox(text)
    up, down = font.getmetrics()
    page = Image.new("L", (max(right - min(left, 0), 1), up + down), 255)
    ImageDraw.Draw(page).text((0, 0), text, fill=0, font=font)
    return shade(page, 0, 255)


def put(
    canvas: np.ndarray,  # uint8 (h w), changed
    picture: np.ndarray,  # uint8
    top: int,  # row of its upper edge
    left: int,  # column of its left edge
):
    "Lay a picture on the canvas, cut where it would hang over."
    h, w = (max(min(a, b - c), 0) for a, b, c in zip(picture.shape, canvas.shape, (top, left)))
    canvas[top : top + h, left : left + w] = picture[:h, :w]


TITLE, NOTE, HEAD, FOOT, GAP = 24, 19, 36, 62, 8  # pixels: letters, and the space around a picture


def fitting(
    text: str,  # one line
    width: int,  # pixels there are
    size: int,  # pixels wanted
) -> np.ndarray:  # as in `word`
    "A line in letters as large as fit."
    while size > 9 and word(text, size).shape[1] > width:
        size -= 1
    return word(text, size)


def edge(
    mask: np.ndarray,  # bool (h w)
    n: int = 2,  # pixels across
) -> np.ndarray:  # bool (h w)
    "The inner rim of a mask; the border of the picture counts as outside."
    p = np.pad(mask, n)
    return mask & ~(p[2 * n :, n:-n] & p[: -2 * n, n:-n] & p[n:-n, 2 * n :] & p[n:-n, : -2 * n])


def put_bar(
    canvas: np.ndarray,  # uint8 (h w), changed
    tile: Tile,  # whose scale it is
    top: int,  # its first row
    w: int,  # pixels across
):
    "A colour bar, its ends, and marks: a line on it or a sign below it."
    low, high, hot = tile.bar
    put(canvas, shade(np.linspace(low, high, w)[None].repeat(14, 0), low, high, hot), top, GAP // 2)
    ends = word(f"{low:g}".replace("-", "−"), NOTE), word(f"{high:.3g}", NOTE)
    put(canvas, ends[0], top + 28, GAP // 2)
    put(canvas, ends[1], top + 28, w + GAP // 2 - ends[1].shape[1])
    for value, sign in tile.marks:
        at = GAP // 2 + round(min(max((value - low) / (high - low), 0), 1) * (w - 4))
        if sign:
            put(canvas, (glyph := word(sign, 15)), top + 13, at + 2 - glyph.shape[1] // 2)
        else:
            canvas[top - 5 : top + 19, at : at + 4] = pure("found")


def draw_tile(
    tile: Tile,  # what to draw
    scale: int,  # pixels of the screen for one of the slice
    letters: int = TITLE,  # pixels of the title
) -> np.ndarray:  # uint8 (h w)
    "Title, picture, and bar or note."
    picture = tile.pixels.repeat(scale, 0).repeat(scale, 1)
    for mask, colour in tile.outlines:
        picture[edge(np.asarray(mask).repeat(scale, 0).repeat(scale, 1), max(round(0.6 * scale), 2))] = colour
    h, w = picture.shape
    canvas = np.full((HEAD + h + FOOT, w + GAP), GREYS - 1, np.uint8)
    put(canvas, word(tile.title, letters), 2, GAP // 2)
    put(canvas, picture, HEAD, GAP // 2)
    for k, line in enumerate(tile.note):
        put(canvas, fitting(line, w, NOTE), HEAD + h + 4 + 24 * k, GAP // 2)
    if tile.bar:
        put_bar(canvas, tile, HEAD + h + 8, w)
    return canvas


def draw(
    tiles: list,  # `Tile`s of one size
    rows: int = 1,  # of pictures
    width: int | None = None,  # pixels of the screen to fill, about; None: 1920, for two rows 1280
) -> Image.Image:  # with a palette
    "The row."
    n, width = -(-len(tiles) // rows), width or (1920 if rows == 1 else 1280)
    scale = max(round((width / n - GAP) / tiles[0].pixels.shape[1]), 1)
    room = scale * tiles[0].pixels.shape[1] + GAP // 2
    letters = next(
        k for k in range(TITLE, 0, -1) if k < 10 or all(word(t.title, k).shape[1] <= room for t in tiles)
    )  # one size for all
    drawn = [draw_tile(t, scale, letters) for t in tiles]
    drawn += [np.full_like(drawn[0], GREYS - 1)] * (n * rows - len(tiles))
    canvas = np.concatenate([np.concatenate(drawn[i : i + n], 1) for i in range(0, n * rows, n)])
    image = Image.fromarray(canvas, "P")
    image.putpalette(PALETTE.tobytes())
    return image


def png_of(
    image: Image.Image,  # with a palette
) -> bytes:
    "A PNG file, written quickly."
    out = BytesIO()
    image.save(out, "png", compress_level=1)
    return out.getvalue()
