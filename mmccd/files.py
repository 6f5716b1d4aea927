"""Writing files whole or not at all, output folders, locks, and JSON: the one place for all of them."""

import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any

from mmccd.errors import display_name

PathLikeStr = str | PathLike[str]


def write_atomic(path: PathLikeStr, content: bytes) -> Path:
    """Write a file beside its place and rename it: afterwards it is whole, or was never touched.

    Args:
        path: file to write, in a folder that exists.
        content: what it shall hold.

    Returns:
        The path.

    Raises:
        OSError: if it cannot be written; nothing is left behind.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def write_durably(path: Path, content: bytes) -> None:
    """Do the same, and force the file and its name onto the disk before returning, in case the power fails.

    Args:
        path: file to write, in a folder that exists.
        content: what it shall hold.

    Raises:
        OSError: if it cannot be written; nothing is left behind.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    if os.name == "posix":  # the new name must reach the disk too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def writing(out: PathLikeStr) -> Iterator[None]:
    """Turn what the system says when writing fails into one sentence about `out`, the folder that the user named.

    Raises:
        ValueError: in place of an OSError, or of a ValueError that an OSError caused.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        todo = "free some space or choose" if cause.errno in (errno.ENOSPC, errno.EDQUOT) else "choose"
        reason = cause.strerror or cause
        raise ValueError(f"Cannot write into {display_name(out)}: {reason}; {todo} another folder.") from error


@contextmanager
def output_folder(out: PathLikeStr) -> Iterator[Path]:
    """Make a folder to write into; take away what was made of it if it is still empty at the end.

    Raises:
        ValueError: if there can be no such folder, or nothing can be written into it.
    """
    if display_name(out) != str(out):
        reason = "its name has characters that cannot be read; rename it"
        raise ValueError(f"Cannot write into {display_name(out)}: {reason}.")
    out = Path(out)
    new = [p for p in (out, *out.parents) if not p.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except (FileExistsError, NotADirectoryError) as error:
        reason = "a file is where a folder should be"
        raise ValueError(f"Cannot write into {out}: {reason}; choose another folder.") from error
    except OSError as error:
        raise ValueError(f"Cannot write into {out}: {error.strerror or error}; choose another folder.") from error
    try:
        yield out
    finally:
        for p in new:
            if p.is_dir() and not any(p.iterdir()):
                p.rmdir()


@contextmanager
def run_lock(out: PathLikeStr) -> Iterator[None]:
    """Keep a second process out of a run folder; the system forgets the lock when this process ends, however it ends.

    Raises:
        ValueError: if another process holds the lock.
    """
    with open(Path(out) / ".lock", "w") as file:
        with suppress(ImportError):  # no such lock on Windows
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(f"Another process is training in {out}: wait for it or stop it.") from error
        yield


def read_json(path: PathLikeStr) -> dict[str, Any]:
    """Read a JSON object; empty where there is no such file.

    Raises:
        ValueError: if the file is damaged, cannot be read, or holds something else.
    """
    try:
        found = json.loads(Path(path).read_text()) if Path(path).exists() else {}
    except (ValueError, OSError) as error:
        raise ValueError(f"Cannot read {path}: it is damaged; delete it and run again.") from error
    if not isinstance(found, dict):
        raise ValueError(f"Cannot read {path}: it holds no JSON object; delete it and run again.")
    return found


def round_floats(x: Any) -> Any:
    """Round all floats in nested dicts and lists to five digits, which is more than a score is worth."""
    if isinstance(x, dict):
        return {k: round_floats(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [round_floats(v) for v in x]
    return float(f"{x:.5g}") if isinstance(x, float) else x


def to_json(result: Any) -> str:
    """Return JSON with one line for each innermost list and each small group, for files that people read and compare.

    Raises:
        ValueError: if a number is NaN or infinite.
    """

    def on_one_line(found: re.Match[str]) -> str:
        text = re.sub(r"\s*\n\s*", " ", found[0])
        for bracket in "[{":
            text = text.replace(f"{bracket} ", bracket)
        for bracket in "]}":
            text = text.replace(f" {bracket}", bracket)
        return text

    indented = json.dumps(result, indent=1, allow_nan=False)
    text = re.sub(r"\[[^\[\]{}]*\]", on_one_line, indented)
    text = re.sub(r"\{[^\[\]{}]{,200}\}", on_one_line, text)
    return (text if json.loads(text) == result else indented) + "\n"
