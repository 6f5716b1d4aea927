"""Pack the slices of a store into one small file, for a machine that has PyTorch but no files of ours.

    python experiments/pack_slices.py slices.zarr build/gpu/slices.safetensors

Only pixels of the brain are kept, in eight bits each: a slice of 64 x 64 pixels in three modalities takes some 4 kB.
Slices that show lesion are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command import run_script
from safetensors.numpy import load_file, save_file
from torch import Tensor

from mmccd.files import user_path

ENDS = (0.01, 99.99)  # percentiles of the brain that the eight bits reach from and to


def pack(place: str | Path, out: str | Path) -> dict[str, Any]:
    """Write the healthy slices of a store into one file.

    Args:
        place: Of the store.
        out: The file, .safetensors.

    Returns:
        The recipe of the store with `slices` and `heads` (how many), and by modality the least and largest value
        (`ends`) and the root mean square of what the eight bits round off (`rounded`).
    """
    from mmccd.cases.store import SliceStore

    data = SliceStore(place).dataset()
    batch = data.batch(list(range(len(data))))
    brain, modalities = batch["brain"][:, 0].numpy(), data.recipe["modalities"]
    values = np.stack([batch[m][:, 0].numpy()[brain] for m in modalities])
    low, high = np.percentile(values, ENDS, axis=1, keepdims=True)
    codes = np.rint((values.clip(low, high) - low) / (high - low) * 255).astype(np.uint8)
    rounded = np.sqrt(np.square(codes / 255 * (high - low) + low - values).mean(1))
    ids = sorted({r.id for r in data.rows})
    about = data.recipe | {"slices": len(data), "heads": len(ids)}
    about |= {"ends": np.hstack([low, high]).tolist(), "rounded": rounded.tolist()}
    tensors = {
        "codes": codes,
        "brain": np.packbits(brain.reshape(len(brain), -1), axis=1),
        "head": np.array([ids.index(r.id) for r in data.rows], np.int32),
        "place": np.array([r.place for r in data.rows], np.int16),
    }
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out, {"about": json.dumps(about)})
    return about


class PackedSlices:
    """Healthy slices on a device, as `mmccd.training_loop` takes data.

    Attributes:
        recipe: Of the store that they come from.
        images: (n m size size) float16, -1 outside the brain.
        brain: bool (n 1 size size).
        head: Number of the head that a slice is of (n,).
        place: Its axial place (n,).
    """

    def __init__(self, recipe: dict[str, Any], images: Tensor, brain: Tensor, head: Tensor, place: Tensor):
        self.recipe, self.images, self.brain, self.head, self.place = recipe, images, brain, head, place

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> PackedSlices:
        """Read what `pack` wrote."""
        from safetensors import safe_open

        with safe_open(path, "np") as file:
            recipe = json.loads(file.metadata()["about"])
        stored, size = load_file(path), recipe["size"]
        brain = np.unpackbits(stored["brain"], axis=1, count=size**2).reshape(-1, size, size) > 0
        images = np.full((len(recipe["modalities"]), *brain.shape), -1, np.float16)
        low, high = np.array(recipe["ends"], np.float32).T[:, :, None]
        images[:, brain] = stored["codes"] / np.float32(255) * (high - low) + low
        tensors = images.swapaxes(0, 1), brain[:, None], stored["head"], stored["place"]
        return cls(recipe, *(torch.from_numpy(np.ascontiguousarray(t)).to(device) for t in tensors))

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Slices by modality, float32 (b 1 size size), and "brain"."""
        i = torch.as_tensor(indices, device=self.images.device)
        images = self.images[i].float()
        return {m: images[:, [k]] for k, m in enumerate(self.recipe["modalities"])} | {"brain": self.brain[i]}

    def of_heads(self, heads: Iterable[int]) -> PackedSlices:
        """The slices of some heads."""
        here = torch.isin(self.head, torch.tensor(list(heads), device=self.head.device, dtype=self.head.dtype))
        return PackedSlices(self.recipe, *(t[here] for t in (self.images, self.brain, self.head, self.place)))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="of healthy heads, from mmccd prepare")
    parser.add_argument("out", help="file to write, .safetensors")
    args = parser.parse_args(argv)
    about, size = pack(args.store, user_path(args.out)), user_path(args.out).stat().st_size
    rounded = ", ".join(f"{m} {v:.3f}" for m, v in zip(about["modalities"], about["rounded"]))
    print(f"{about['slices']} slices of {about['heads']} heads, {size / 1e6:.1f} MB; rounded by {rounded} (rms)")
    return 0


if __name__ == "__main__":
    run_script(main)
