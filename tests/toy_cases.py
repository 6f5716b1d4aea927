"""Small cases in BraTS layout, quick enough to make one for every test."""

from pathlib import Path

import nibabel as nib
import numpy as np

AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 27], [0, 0, 2, 0], [0, 0, 0, 1]])  # LPS, voxels of 2 cubic millimetres


def volumes(seed=0, lesion=True, shape=(24, 28, 10)):
    "A bright ball in a noisy ellipsoid: image, labels."
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    brain = (x / 0.85) ** 2 + (y / 0.85) ** 2 + (z / 1.2) ** 2 < 1
    ball = (((x - 0.3) ** 2 + y**2 + z**2) < 0.1) & brain & lesion
    image = np.where(brain, 500 + 40 * rng.standard_normal(shape) + 600 * ball, 0).round().clip(0)
    return image.astype(np.float32), ball.astype(np.uint8)


def write_case(folder, id, modalities=("flair",), seed=0, lesion=True, affine=AFFINE):
    "Write a case, return its folder."
    case = Path(folder) / id
    case.mkdir(parents=True)
    for i, m in enumerate(modalities):
        image, labels = volumes(seed + 100 * i, lesion)
        nib.save(nib.Nifti1Image(image, affine), case / f"{id}_{m}.nii.gz")
    nib.save(nib.Nifti1Image(labels, affine), case / f"{id}_seg.nii.gz")
    return case


def tree(folder):
    "Everything below a folder, with its bytes."
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None
        for p in sorted(Path(folder).rglob("*"))
    }
