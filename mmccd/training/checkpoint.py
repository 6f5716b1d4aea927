""""""

import hashlib
import io
from contextlib import contextmanager
from pathlib import Path

import torch

from mmccd.files import write_durably


class ChecksummedCheckpointIO:
    "Lightning's checkpoints as files that end in the SHA-256 of all before; numbers and plain containers only."

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_durably(Path(path), buffer.getvalue() + hashlib.sha256(buffer.getbuffer()).digest())

    def load_checkpoint(self, path, map_location=None, weights_only=True):
        content = Path(path).read_bytes()
        if hashlib.sha256(content[:-32]).digest() != content[-32:]:
            raise ValueError(f"{path} is cut off or damaged")
        return torch.load(
            io.BytesIO(content[:-32]), map_location=map_location or "cpu", weights_only=True
        )  # never runs stored code

    def remove_checkpoint(self, path):
        Path(path).unlink(missing_ok=True)


def checkpoints(
    out: Path,  # folder of a run
) -> list[Path]:  # oldest first
    "The checkpoints of a run."
    return sorted((out / "checkpoints").glob("step-" + "[0-9]" * 7 + ".ckpt"))


def newest_good(
    out: Path,  # folder of a run
    warn=print,  # is given one sentence where a checkpoint is damaged
) -> Path | None:  # None: there is no checkpoint yet
    "The newest checkpoint that is whole."
    found = checkpoints(out)
    for path in reversed(found):
        try:
            ChecksummedCheckpointIO().load_checkpoint(path)
        except OSError as e:
            raise ValueError(
                f"Cannot read {path}: {e.strerror or e}; put that right, or delete it to go on from what was before it."
            ) from e
        except Exception:
            if path != found[0]:
                warn(f"{path} is cut off or damaged; going on from the checkpoint before it.")
        else:
            return path
    if found:
        raise ValueError(f"Cannot go on in {out}: none of its checkpoints can be read; start again in another folder.")


@contextmanager
def saving(
    out,  # folder of the run
):
    "Turn what the system says when writing fails into one sentence."
    try:
        yield
    except OSError as e:
        raise ValueError(
            f"Cannot write into {out}: {e.strerror or e}; put that right and go on with --resume, "
            "the last good checkpoint is kept."
        ) from e


def keep_newest(
    out: Path,  # folder of the run
    path: Path,  # the checkpoint just written
    n: int = 2,  # how many stay
):
    "Remove what is older than the last checkpoints."
    for old in [p for p in checkpoints(out) if p.name <= path.name][:-n]:
        old.unlink()
