"""Checkpoints of a run: written whole or not at all, checked when they are read, and never a way to run stored code."""

import hashlib
import io
import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mmccd.files import write_durably

DIGEST = hashlib.sha256().digest_size  # bytes of the checksum at the end of a checkpoint


class ChecksummedCheckpointIO:
    """Reads and writes checkpoints: PyTorch's format, then the SHA-256 of all bytes before it.

    It has the methods of Lightning's `CheckpointIO` and does not import Lightning, which takes seconds.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint durably: after a power cut the file is whole, or was never touched."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        content = buffer.getvalue()
        write_durably(Path(path), content + hashlib.sha256(content).digest())

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint: numbers and plain containers only, whatever `weights_only` says.

        Raises:
            ValueError: The checksum does not fit.
            OSError: The file cannot be read.
            pickle.UnpicklingError: It holds something else than numbers and plain containers.
        """
        content = Path(path).read_bytes()
        body, digest = content[:-DIGEST], content[-DIGEST:]
        if hashlib.sha256(body).digest() != digest:
            raise ValueError(f"{path} is cut off or damaged")
        return torch.load(io.BytesIO(body), map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint, if it is there."""
        Path(path).unlink(missing_ok=True)


def checkpoint_path(out: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies in a run folder."""
    return out / "checkpoints" / f"step-{step:07d}.ckpt"


def checkpoint_step(path: Path) -> int:
    """How many steps were done when this checkpoint was written."""
    return int(path.stem.removeprefix("step-"))


def checkpoints(out: Path) -> list[Path]:
    """The checkpoints in a run folder, oldest first."""
    return sorted((out / "checkpoints").glob("step-" + "[0-9]" * 7 + ".ckpt"))


class ForeignCheckpointError(ValueError):
    """A checkpoint that is whole, and of another training."""


def is_state(state: Any) -> bool:
    """Is this what a `TrainingCallback` left in a checkpoint: lines of the log in numbers, seconds, a calibration?"""

    def is_number(x: Any) -> bool:
        return isinstance(x, int | float) and not isinstance(x, bool)

    def is_row(row: Any) -> bool:
        return isinstance(row, dict) and all(map(is_number, row.values())) and {"step", "samples"} <= row.keys()

    try:
        rows, calibration, seconds = state["rows"], state["calibration"], (state["spent"], state["pause"])
        known = calibration is None or math.isfinite(calibration["threshold"])
        return known and isinstance(rows, list) and all(map(is_row, rows)) and min(seconds) >= 0
    except (KeyError, TypeError, ValueError):
        return False


def check_content(checkpoint: Any, step: int) -> None:
    """Make sure that a checkpoint holds what a training needs to go on, before anything believes it.

    Raises:
        ValueError: It does not.
    """
    try:
        right = checkpoint["global_step"] == step and is_state(checkpoint["callbacks"]["Keeper"])
        tensors = checkpoint["state_dict"].values()
        right = right and all(not t.is_floating_point() or bool(t.isfinite().all()) for t in tensors)
        right = right and all(math.isfinite(v) for v in checkpoint["losses"])
        right = right and all(len(checkpoint[k]) == 1 for k in ("optimizer_states", "lr_schedulers"))
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]
        right = right and progress["optimizer"]["step"]["total"]["completed"] == step  # where Lightning goes on
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("it is no checkpoint of a training") from error
    if not right:
        raise ValueError("it holds values that no training has")


def newest_intact(
    out: Path, warn: Callable[[str], object], check: Callable[[Mapping[str, Any], Path], object] = lambda *_: None
) -> Path | None:
    """The newest checkpoint in a run folder that is whole; None if there is none yet.

    Args:
        out: Folder of the run.
        warn: Is given one sentence for each damaged checkpoint that is passed over.
        check: Raises an error for content, and path, that cannot be gone on from.

    Raises:
        ValueError: A checkpoint cannot be read though it may be whole, is of another training, or all are damaged.
    """
    found = checkpoints(out)
    for path in reversed(found):
        try:
            check(ChecksummedCheckpointIO().load_checkpoint(path), path)
        except ForeignCheckpointError:
            raise
        except OSError as e:
            raise ValueError(
                f"Cannot read {path}: {e.strerror or e}; put that right, or delete it to go on from what was before it."
            ) from e
        except Exception:  # a checksum that does not fit, or anything that PyTorch raises for what it cannot read
            if path != found[0]:
                warn(f"{path} is cut off or damaged; going on from the checkpoint before it.")
        else:
            return path
    if found:
        raise ValueError(f"Cannot go on in {out}: none of its checkpoints can be read; start again in another folder.")
    return None


@contextmanager
def explained_write_errors(out: Path) -> Generator[None]:
    """Turn an error of the system while writing into a run folder into one sentence that says how to go on.

    Raises:
        ValueError: Instead of an OSError.
    """
    try:
        yield
    except OSError as e:
        raise ValueError(
            f"Cannot write into {out}: {e.strerror or e}; put that right and go on with --resume, "
            "the last good checkpoint is kept."
        ) from e


def remove_older(out: Path, newest: Path, keep: int = 2) -> None:
    """Delete all checkpoints of a run but the `keep` last ones up to `newest`; what is newer is left alone."""
    for old in [p for p in checkpoints(out) if p.name <= newest.name][:-keep]:
        old.unlink()
