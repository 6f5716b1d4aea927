"""Files that the explorer writes: one picture at a time from the page, or everything from the command line."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmccd.files import output_folder, user_path, write_atomic, writing

if TYPE_CHECKING:
    from mmccd.explorer.explorer import Explorer
    from mmccd.explorer.view import View

SAVED = {
    "picture": "view.png",
    "steps": "steps.gif",
    "strips": "strips.gif",
    "words": "view.txt",
    "lines": "view.py",
}
"""File names of `save_view`, by content."""


@dataclass(frozen=True)
class SavedPicture:
    """A picture that was to be saved.

    Attributes:
        name: File name.
        data: Contents of the file.
        path: Where it was written; None where that failed.
        error: Why it was not written, in one sentence, or "".
    """

    name: str
    data: bytes
    path: Path | None = None
    error: str = ""


def save_picture(explorer: Explorer, view: View, kind: str, out: str | Path) -> SavedPicture:
    """Write a picture or an animation into a folder, under a name that is still free.

    Args:
        explorer: Computes and draws.
        view: What to draw.
        kind: "png", or "steps" or "strips" for an animated GIF.
        out: The folder; made where missing.
    """
    case, ending = explorer.subject.case.id, "png" if kind == "png" else "gif"
    data = explorer.png(view) if kind == "png" else explorer.gif(view, kind)
    stem = f"{case}-{view.place}-{view.input}-{view.target}" + ("" if kind == "png" else f"-{kind}")
    try:
        with output_folder(out) as folder, writing(out):
            names = (f"{stem}{f'-{n}' if n > 1 else ''}.{ending}" for n in range(1, 10**6))
            path = next(p for name in names if not (p := folder / name).exists())
            write_atomic(path, data)
    except ValueError as e:
        return SavedPicture(f"{stem}.{ending}", data, error=str(e))
    return SavedPicture(path.name, data, path)


def save_view(explorer: Explorer, view: View, out: str | Path, overwrite: bool = False) -> dict[str, str]:
    """Write everything that the page can save: picture, both animations, text and Python; all of it, or nothing.

    Args:
        explorer: Computes and draws.
        view: What to draw.
        out: The folder; made where missing.
        overwrite: Replace files of the same names.

    Returns:
        `SAVED`, file names by content.

    Raises:
        ValueError: If one of the files exists already, or the folder cannot be written.
    """
    out = user_path(out)
    existing = [p for name in SAVED.values() if (p := out / name).exists()]
    if existing and not overwrite:
        raise ValueError(f"{existing[0]} is already there: choose another folder, or give --overwrite")
    with output_folder(out) as folder:
        contents = {
            "picture": explorer.png(view),
            "steps": explorer.gif(view, "steps"),
            "strips": explorer.gif(view, "strips"),
            "words": f"{explorer.describe(view)}\n".encode(),
            "lines": f"{explorer.lines(view)}\n".encode(),
        }
        with writing(out), tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as beside:
            for content, name in SAVED.items():
                (Path(beside) / name).write_bytes(contents[content])
            for name in SAVED.values():
                os.replace(Path(beside) / name, folder / name)
    return dict(SAVED)
