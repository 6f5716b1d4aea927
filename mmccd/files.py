"""Writing files whole or not at all, output folders, locks, and JSON: the one place for all of them."""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import BufferedWriter
from os import PathLike
from pathlib import Path
from typing import Any

from mmccd.errors import display_name, file_error

PathLikeStr = str | PathLike[str]

LOCK, MARK = ".lock", b"mmccd\n"  # name of a folder's lock, and what it holds if it is ours
PATIENCE = 10.0  # seconds to wait for a process that swaps a folder in, which takes it milliseconds
PREFIX, SUFFIX = ".mmccd-", ".part"  # of what is not finished
PART = re.compile(r"\.mmccd-\w{8}\.part")
OLD_PART = re.compile(r"\.part-\w{8}")
OLD_FILE = re.compile(r"(\.\d+-)?.+_(anomaly|segmentation)\.nii\.gz|.+_report\.png")
NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
OPEN_FILES_STAY = os.name != "posix"  # Windows neither removes nor renames a file that is open, nor a folder with one
READERS = 2.0  # seconds that it then takes others at most to read a file: another process, a virus scanner


def user_path(path: PathLikeStr) -> Path:
    """Return the path that a user means: `~` at its beginning is the home folder, `./~` a folder of that name.

    Every function that users give a path calls this, and no other place knows about `~`; twice is no harm.

    Raises:
        ValueError: if this user has no home folder.
    """
    text = os.fspath(path)
    if re.match(r"\.[/\\]~", text):
        return Path(text).absolute()  # as a relative `Path` it would lose the `./`
    found = os.path.expanduser(text)
    if found == text and re.match(r"~([/\\]|$)", text):
        raise file_error(path, "this user has no home folder", "write the path in full")
    return Path(found)


def hash_file(path: PathLikeStr) -> str:
    """Return the SHA-256 of a file's bytes, 64 hexadecimal digits; large files are read in blocks.

    Raises:
        OSError: if it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_or_nothing(path: PathLikeStr) -> str:
    """Return the hash of a file, "" where none can be read: whoever reads it in earnest says why."""
    try:
        return hash_file(path) if os.path.isfile(path) else ""
    except OSError:
        return ""


@contextmanager
def replacing(path: PathLikeStr, durably: bool = False) -> Iterator[BufferedWriter]:
    """Give a file to write into, which takes the place of `path` at the end: `path` is whole, or was never touched.

    It lies beside `path` under a name of its own, ends in .part, follows no link, and is gone after an error.

    Args:
        path: file to write, in a folder that exists.
        durably: force content and name onto the disk before returning, in case the power fails.

    Raises:
        OSError: if it cannot be written; nothing is left behind.
    """
    path = Path(path)
    file = _new_part(path.parent)
    try:
        with file:
            yield file
            file.flush()
            if durably:
                os.fsync(file.fileno())
            if OPEN_FILES_STAY:
                file.close()
            _patiently(os.replace, file.name, path)
    finally:
        Path(file.name).unlink(missing_ok=True)
    if durably and os.name == "posix":  # the new name must reach the disk too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_atomic(path: PathLikeStr, content: bytes) -> Path:
    """Write a file by `replacing` what is there, and return its path.

    Raises:
        OSError: if it cannot be written; nothing is left behind.
    """
    with replacing(path) as file:
        file.write(content)
    return Path(path)


def write_durably(path: PathLikeStr, content: bytes) -> None:
    """Do the same, and force the file and its name onto the disk before returning, in case the power fails.

    Raises:
        OSError: if it cannot be written; nothing is left behind.
    """
    with replacing(path, durably=True) as file:
        file.write(content)


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
    out = user_path(out)
    if display_name(out) != str(out):
        reason = "its name has characters that cannot be read; rename it"
        raise ValueError(f"Cannot write into {display_name(out)}: {reason}.")
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


class FolderBusyError(ValueError):
    """Another process holds the lock of a folder."""


@contextmanager
def folder_lock(folder: PathLikeStr, doing: str, wait: float = 0.0) -> Iterator[None]:
    """Keep other processes out of a folder; the system forgets the lock when this process ends, however it ends.

    Args:
        folder: that exists.
        doing: what is done in it, for the sentence that the others get: "training".
        wait: seconds to wait for another process that has the lock.

    Raises:
        FolderBusyError: if another process has the lock.
        ValueError: if the lock is a link, which could lead to a file of somebody's.
    """
    path = Path(folder) / LOCK
    end = time.monotonic() + wait
    while (lock := _lock_file(path)) is None:
        if time.monotonic() >= end:
            raise FolderBusyError(f"Another process is {doing} in {display_name(folder)}: wait for it or stop it.")
        time.sleep(0.02)
    try:
        if not os.fstat(lock).st_size:
            os.write(lock, MARK)
        yield
    finally:
        with suppress(OSError):
            _give_up_folder(path, lock)


@contextmanager
def working_folder(folder: PathLikeStr) -> Iterator[Path]:
    """Give a hidden folder inside `folder` to work in, which is gone at the end.

    What a run that is killed leaves of it, `remove_leftovers` removes.

    Raises:
        OSError: if it cannot be made.
    """
    part, lock = _new_part_folder(folder)
    try:
        yield part
    finally:
        try:
            _give_up(lock, lambda: _clear(part))
        except KeyboardInterrupt:  # in the middle of it: to the end, unless there is another one
            _clear(part)
            raise


def swap_in(new: Path, final: Path, part: Path, ours: Collection[str] = ()) -> None:
    """Put a folder in its place as one; what else the user keeps in the folder that was there is kept.

    Wherever this is stopped, leaving `part`, or `remove_leftovers` after a kill, puts back what was there.

    Args:
        new: complete folder, inside `part`.
        final: where it belongs; may be taken.
        part: from `working_folder`, beside `final`.
        ours: names of files in `final` that are not kept, beside those that `new` has too.

    Raises:
        ValueError: if `final` is a link or a file, or a folder in it has a name of `ours`.
        OSError: if it cannot be put there; what was there is back in its place.
    """
    if not os.path.lexists(final):
        _patiently(os.rename, new, final)
        return
    if final.is_symlink() or not final.is_dir():
        raise ValueError(f"Cannot write into {final}: it is {'a link' * final.is_symlink() or 'a file'}; remove it.")
    _carry_over(final, new, ours)
    (part / "old").mkdir()
    _patiently(os.rename, final, part / "old" / final.name)
    _patiently(os.rename, new, final)


def remove_leftovers(folder: PathLikeStr) -> None:
    """Remove what killed runs left in `folder`, and put back what one of them was about to replace.

    What a process that lives is writing stays, and so does everything of the user's.

    Args:
        folder: one that runs write into; those below it are not looked at.
    """
    try:
        there = [p for p in Path(folder).iterdir() if PART.fullmatch(p.name) or _is_old_part(p)]
    except OSError:
        return
    for part in there:
        with suppress(OSError, ValueError):  # not ours to remove, or gone by now
            is_folder = part.is_dir() and not part.is_symlink()
            if (lock := _lock_file(part / LOCK if is_folder else part, is_folder, sure=True)) is None:
                continue
            _give_up(lock, partial(_clear, part) if is_folder else part.unlink)
    with suppress(OSError, ValueError):
        if (lock := _lock_file(path := Path(folder) / LOCK, create=False, sure=True)) is not None:
            _give_up_folder(path, lock)


def _is_old_part(path: Path) -> bool:
    """Return whether a folder is what a killed `detect` of version 0.1.0 left, and not one of the user's."""
    names = os.listdir(path) if OLD_PART.fullmatch(path.name) and path.is_dir() else ()
    return bool(names) and all(OLD_FILE.fullmatch(n) for n in names)


def _open_no_link(path: str, flags: int) -> int:
    """Open a file for `open`, unless it is a link."""
    return os.open(path, flags | NO_LINK, 0o666)


def _new_part(folder: Path) -> BufferedWriter:
    """Return a new file in `folder`, locked as long as it is open, so that `remove_leftovers` leaves it alone."""
    while True:
        path = folder / f"{PREFIX}{secrets.token_hex(4)}{SUFFIX}"
        try:
            file = open(path, "xb", opener=_open_no_link)  # noqa: SIM115  the caller closes it
        except FileExistsError:
            continue
        if _try_lock(file.fileno()) and _is_named(file.fileno(), path):
            return file
        file.close()


def _new_part_folder(folder: PathLikeStr) -> tuple[Path, int]:
    """Return a new hidden folder in `folder`, and the lock that says that its owner lives."""
    while True:
        part = Path(tempfile.mkdtemp(prefix=PREFIX, suffix=SUFFIX, dir=folder))
        try:
            lock = _lock_file(part / LOCK)
        except FileNotFoundError:  # `remove_leftovers` of another process was quicker than our lock
            continue
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        if lock is not None:
            return part, lock


def _lock_file(path: Path, create: bool = True, sure: bool = False) -> int | None:
    """Return the descriptor of a file that this process has locked now, or None where another one has it.

    Args:
        path: the file.
        create: make it where missing.
        sure: return None, too, where the system has no such locks, and nobody knows.

    Raises:
        ValueError: if it is a link.
        OSError: if it cannot be opened.
    """
    try:
        lock = os.open(path, os.O_RDWR | NO_LINK | (os.O_CREAT if create else 0), 0o666)
    except OSError:
        if path.is_symlink():
            raise ValueError(f"Cannot lock {display_name(path)}: it is a link; remove it.") from None
        raise
    if _try_lock(lock, sure) and _is_named(lock, path):
        return lock
    os.close(lock)
    return None


def _try_lock(file: int, sure: bool = False) -> bool:
    """Lock an open file, and return whether nobody else has it; without such locks, True unless it has to be sure."""
    from filelock import lock_descriptor

    try:
        return lock_descriptor(file, blocking=False)
    except OSError:  # some network drives
        return not sure


def _is_named(file: int, path: Path) -> bool:
    """Return whether an open file is still the one at `path`; whoever had the lock before may have removed it."""
    try:
        return os.path.samestat(os.fstat(file), os.lstat(path))
    except FileNotFoundError:
        return False


def _give_up(lock: int, remove: Callable[[], object]) -> None:
    """Remove what a lock protects before anybody else can get the lock, and give it up.

    Where a file that is open stays, it is the other way round, and what somebody else has locked by then stays.
    """
    if OPEN_FILES_STAY:
        os.close(lock)
        remove()
        return
    try:
        remove()
    finally:
        os.close(lock)


def _give_up_folder(path: Path, lock: int) -> None:
    """Give up the lock of a folder and remove its file, unless that is somebody else's file of the same name."""
    os.lseek(lock, 0, os.SEEK_SET)
    ours = os.read(lock, len(MARK) + 1) == MARK
    _give_up(lock, path.unlink if ours else lambda: None)


def _patiently(move: Callable[[PathLikeStr, PathLikeStr], None], source: PathLikeStr, target: PathLikeStr) -> None:
    """Move a file or folder with `os.rename` or `os.replace`; where one that is open stays, wait for its readers.

    Raises:
        OSError: if it cannot be moved.
    """
    end = time.monotonic() + READERS
    while True:
        try:
            return move(source, target)
        except PermissionError:
            if not OPEN_FILES_STAY or time.monotonic() >= end:
                raise
        time.sleep(0.02)


def _clear(part: Path) -> None:
    """Put back the folders that `part` holds of others and that nothing took the place of, and remove it."""
    if (part / "old").is_dir():
        for old in (part / "old").iterdir():
            if not os.path.lexists(part.parent / old.name):
                _patiently(os.rename, old, part.parent / old.name)
        _patiently(os.rename, part / "old", part / "gone")  # what is removed only in part is never put back
    shutil.rmtree(part, ignore_errors=True)


def _carry_over(old: Path, new: Path, ours: Collection[str]) -> None:
    """Link or copy into `new` what it lacks of `old`, but the files called as in `ours`."""
    if folders := [old / name for name in ours if (old / name).is_dir()]:
        raise ValueError(f"Cannot write {folders[0]}: a folder is where a file should be; remove it.")

    def left_out(folder: str, names: list[str]) -> list[str]:
        here, there = Path(folder), new / Path(folder).relative_to(old)
        both = [n for n in names if os.path.lexists(there / n) and not ((here / n).is_dir() and (there / n).is_dir())]
        return both + [n for n in names if here == old and n in ours]

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target, follow_symlinks=False)
        except (OSError, NotImplementedError):  # a drive, or a system, without such links
            shutil.copy2(source, target, follow_symlinks=False)

    shutil.copytree(old, new, symlinks=True, ignore=left_out, copy_function=link, dirs_exist_ok=True)


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
