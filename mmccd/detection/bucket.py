"""Results behind an fsspec URL, as in a bucket: files by name, of which each is written whole, but none with another.

While a case's files are put there, a mark lies beside them, and with it they do not count, nor does the record of those
that they replace: wherever this is stopped, the case is not done, and whoever comes next may put it there again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmccd.detection.report import record_name, result_files
from mmccd.errors import display_name

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

MARK = "detect.begun"  # in a case's folder while its result is put there


def connect(out: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a URL, and the path in it.

    Raises:
        ValueError: if there is no such kind of URL, or the package for it is not installed.
    """
    import fsspec

    options = {"auto_mkdir": True} if out.startswith(("file:", "local:")) else {}
    try:
        files, root = fsspec.core.url_to_fs(out, **options)
    except (ImportError, ValueError) as error:
        raise ValueError(f"Cannot use {display_name(out)}: {error}; choose another place.") from error
    return files, root.rstrip("/")


def list_files(out: str) -> dict[str, dict[str, Any]]:
    """Return what the file system knows of each file below a URL, by its name there; empty where there is nothing.

    Raises:
        ValueError: if it cannot be asked.
    """
    files, root = connect(out)
    try:
        files.invalidate_cache()  # others may write there
        found: Any = files.find(root, detail=True)
    except FileNotFoundError:
        return {}
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"Cannot read {display_name(out)}: {reason}; check the address and your rights.") from error
    return {name.removeprefix(f"{root}/"): info for name, info in found.items() if name.startswith(f"{root}/")}


def read_files(out: str, names: Sequence[str]) -> list[bytes | Exception]:
    """Read files, many at a time; an error takes the place of what cannot be read."""
    files, root = connect(out)
    nothing: Any = [None] * len(names)
    found: list[Any] = files.cat_ranges([f"{root}/{n}" for n in names], nothing, nothing, on_error="return")
    return found


def write_file(out: str, name: str, content: bytes) -> None:
    """Write a file, in one piece."""
    files, root = connect(out)
    files.pipe_file(f"{root}/{name}", content)


def remove_files(out: str, names: Iterable[str]) -> None:
    """Remove files, one after the other; those that are not there do not matter."""
    files, root = connect(out)
    for name in names:
        with suppress(FileNotFoundError):
            files.rm_file(f"{root}/{name}")


def put_result(out: str, new: Path) -> None:
    """Put the folder of a case in its place; what else lies there stays.

    Args:
        out: URL of the results.
        new: folder of the case's name, with its files and its record.
    """
    files, root = connect(out)
    id = new.name
    write_file(out, f"{id}/{MARK}", b"")
    for name in (*result_files(id).values(), record_name(id)):
        files.put_file(str(new / name), f"{root}/{id}/{name}")
    remove_files(out, [f"{id}/{MARK}"])


@contextmanager
def fetched_map(out: str, id: str) -> Generator[Path]:
    """Fetch the map of a case into a folder of results of its own, which is gone at the end.

    Raises:
        ValueError: if it is not there; what is said about it inside names the URL.
    """
    name = f"{id}/{result_files(id)['anomaly']}"
    with tempfile.TemporaryDirectory() as folder:
        (content,) = read_files(out, [name])
        if isinstance(content, FileNotFoundError):
            raise ValueError(f"Cannot read {display_name(f'{out}/{name}')}: it is missing; detect the case again.")
        if isinstance(content, Exception):
            raise content
        (Path(folder) / id).mkdir()
        (Path(folder) / name).write_bytes(content)
        try:
            yield Path(folder)
        except ValueError as error:
            raise ValueError(str(error).replace(folder, out)) from error
