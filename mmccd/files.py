""""""

import errno
import json
import os
import re
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

from mmccd.errors import display_name


def round_floats(
    x,  # made of dicts, lists and numbers
):  # the same
    "Numbers to five digits, which is more than they are worth."
    if isinstance(x, dict):
        return {k: round_floats(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [round_floats(v) for v in x]
    return float(f"{x:.5g}") if isinstance(x, float) else x


def to_json(
    result,  # ready for JSON
) -> str:
    "JSON with a line for each innermost list and each small group."

    def flat(found):
        return (
            re.sub(r"\s*\n\s*", " ", found[0])
            .replace("[ ", "[")
            .replace(" ]", "]")
            .replace("{ ", "{")
            .replace(" }", "}")
        )

    text = re.sub(r"\[[^\[\]{}]*\]", flat, plain := json.dumps(result, indent=1, allow_nan=False))
    text = re.sub(r"\{[^\[\]{}]{,200}\}", flat, text)
    return (text if json.loads(text) == result else plain) + "\n"


def write_durably(
    path: Path,  # file to write; its folder exists
    content: bytes,  # what it shall hold
):
    "Write beside, force it onto the disk, rename: after a power cut the file is whole, or was never touched."
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
def run_lock(
    out,  # folder of the run
):
    "Keep a second process out of a run folder; the system forgets the lock when this one ends, however it ends."
    with open(Path(out) / ".lock", "w") as file:
        with suppress(ImportError):  # no such lock on Windows
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                raise ValueError(f"Another process is training in {out}: wait for it or stop it.") from e
        yield


def write_atomic(
    path: str | Path,  # file to write; its folder exists
    content: bytes,  # what it shall hold
) -> Path:  # the path
    "Write a file beside its place and rename it: afterwards it is whole, or was never touched."
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path


@contextmanager
def writing(
    out,  # folder that the user named
):
    "Turn what the system says when writing fails into one sentence about `out`."
    try:
        yield
    except (OSError, ValueError) as e:
        cause = e if isinstance(e, OSError) else e.__cause__
        if not isinstance(cause, OSError):
            raise
        todo = "free some space or choose" if cause.errno in (errno.ENOSPC, errno.EDQUOT) else "choose"
        raise ValueError(
            f"Cannot write into {display_name(out)}: {cause.strerror or cause}; {todo} another folder."
        ) from e


def read_json(
    path,  # file
) -> dict:  # what it holds; empty where there is no such file
    "Read a JSON object, or say in one sentence why not."
    try:
        found = json.loads(Path(path).read_text()) if Path(path).exists() else {}
    except (ValueError, OSError) as e:
        raise ValueError(f"Cannot read {path}: it is damaged; delete it and run again.") from e
    if not isinstance(found, dict):
        raise ValueError(f"Cannot read {path}: it holds no JSON object; delete it and run again.")
    return found


@contextmanager
def output_folder(
    out,  # folder to write into
):
    "Make a folder, or say why not; take away what was made if it is still empty at the end."
    if display_name(out) != str(out):
        raise ValueError(
            f"Cannot write into {display_name(out)}: its name has characters that cannot be read; rename it."
        )
    out = Path(out)
    new = [p for p in (out, *out.parents) if not p.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except (FileExistsError, NotADirectoryError) as e:
        raise ValueError(f"Cannot write into {out}: a file is where a folder should be; choose another folder.") from e
    except OSError as e:
        raise ValueError(f"Cannot write into {out}: {e.strerror or e}; choose another folder.") from e
    try:
        yield out
    finally:
        for p in new:
            if p.is_dir() and not any(p.iterdir()):
                p.rmdir()
