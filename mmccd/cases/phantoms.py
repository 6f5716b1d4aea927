"""Phantoms as data: written in BraTS layout, or prepared in place of a folder of cases."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from mmccd.anatomy import GRID, KINDS, VARIED, VERSION
from mmccd.files import (
    PATIENCE,
    folder_lock,
    output_folder,
    remove_leftovers,
    swap_in,
    user_path,
    working_folder,
    writing,
)
from mmccd.phantom import Phantom, make_phantom, phantom_id
from mmccd.progress import track

PathLikeStr = str | PathLike[str]

MOST_APART = 31  # millimetres from slice to slice: five slices of a head


@dataclass(frozen=True)
class Phantoms:
    """Phantom subjects to prepare, in place of a folder of cases.

    Attributes:
        healthy: healthy subjects, how many; the other kinds alike.
        glioma: patients with a glioma.
        ms: patients with multiple sclerosis.
        infarct: patients with an infarct.
        artefact: healthy subjects with an artefact of the scanner.
        seed: of all randomness.
        whole: make whole heads, not the wanted slices alone.
        every: of each whole head make only the places that lie so far apart, the first at `index % every`; 1 to 31.
        varied: what differs between heads by more than usual, of `mmccd.anatomy.VARIED`.
    """

    healthy: int = 0
    glioma: int = 0
    ms: int = 0
    infarct: int = 0
    artefact: int = 0
    seed: int = 0
    whole: bool = False
    every: int = 1
    varied: Sequence[str] = ()

    @property
    def how(self) -> dict[str, Any]:
        """How they are made, as the recipe of a store keeps it (`records.PhantomRecipe`)."""
        thinned = {"every": self.every} if self.every > 1 else {}
        varied = {"varied": sorted({*self.varied})} if self.varied else {}
        return {"version": VERSION, "seed": self.seed, "whole": self.whole or bool(thinned)} | thinned | varied

    def tasks(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the name of each subject, and its origin: kind and index.

        Raises:
            ValueError: if there is none, `every` leaves hardly a slice of a head, or something else cannot be varied.
        """
        if not 1 <= self.every <= MOST_APART:
            raise ValueError(f"Phantoms can be made of every slice to every {MOST_APART}st, got every {self.every}.")
        if unknown := set(self.varied) - set(VARIED):
            raise ValueError(f"Phantoms cannot vary {', '.join(sorted(unknown))}; choose from {', '.join(VARIED)}.")
        wanted = [(kind, i) for kind in KINDS for i in range(getattr(self, kind))]
        if not wanted:
            raise ValueError(
                "There is nothing to prepare: ask for at least one phantom, such as healthy=1 (--healthy 1)."
            )
        return [(phantom_id(kind, self.seed, i, tuple(self.varied)), {"kind": kind, "index": i}) for kind, i in wanted]


def phantom_places(how: dict[str, Any], index: int, slices: range | None) -> range | None:
    """Return the axial places that are made of a subject; None for all.

    Args:
        how: from `Phantoms.how`.
        index: of the subject.
        slices: places that are wanted; None for all.
    """
    if "every" in how:
        return range(index % how["every"], GRID[2], how["every"])
    return None if how["whole"] else slices


def save_nifti(volume: np.ndarray, path: PathLikeStr, affine: np.ndarray, dtype: Any = np.int16) -> None:
    """Write a volume (x, y, z) of whole numbers as compressed NIfTI in millimetres; the same volume, the same bytes.

    Args:
        volume: what to write.
        path: file to write, .nii.gz.
        affine: (4, 4), voxel index to millimetres.
        dtype: on disk.
    """
    import nibabel as nib

    image = nib.Nifti1Image(volume.astype(dtype), affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def write_case(
    folder: PathLikeStr, name: str, volumes: dict[str, np.ndarray], labels: np.ndarray, affine: np.ndarray
) -> None:
    """Write a case as <name>_<modality>.nii.gz and <name>_seg.nii.gz.

    Args:
        folder: to write into, made where missing.
        name: of the case.
        volumes: (x, y, z) by modality.
        labels: uint8 (x, y, z), 0 outside the lesion.
        affine: (4, 4), voxel index to millimetres.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for m, v in volumes.items():
        save_nifti(v, folder / f"{name}_{m}.nii.gz", affine)
    save_nifti(labels, folder / f"{name}_seg.nii.gz", affine, np.uint8)


def write_phantom(phantom: Phantom, out: PathLikeStr, overwrite: bool = False) -> Path:
    """Write a phantom in BraTS layout; it appears under its name only when it is complete.

    Args:
        phantom: what to write.
        out: folder that gets a folder <id>.
        overwrite: replace the files of a case that is there; other files in its folder stay.

    Returns:
        The case's folder: <id>_{flair,t1,t1ce,t2,seg}.nii.gz, and healthy_twin/ with the same names.

    Raises:
        ValueError: if the case is there already.
    """
    out = user_path(out)
    final = out / phantom.id
    out.mkdir(parents=True, exist_ok=True)
    with working_folder(out) as part:
        new = part / "new" / phantom.id
        write_case(new, phantom.id, phantom.volumes, phantom.labels, phantom.affine)
        if phantom.twin:
            write_case(new / "healthy_twin", phantom.id, phantom.twin, 0 * phantom.labels, phantom.affine)
        with folder_lock(out, "writing", PATIENCE):
            if final.exists() and not overwrite:
                raise ValueError(f"{final} exists already; choose another folder or overwrite it")
            swap_in(new, final, part)
    return final


def make_subjects(
    out: PathLikeStr,
    wanted: Iterable[tuple[str, int]],
    seed: int = 0,
    slices: range | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> list[dict[str, str]]:
    """Make phantom subjects and write them in BraTS layout, each of them whole or not at all.

    Args:
        out: folder; made where missing.
        wanted: (kind, index) of each subject.
        seed: of the data set.
        slices: axial slices; None: all 155.
        overwrite: replace subjects that are there.
        progress: a bar, if on a terminal.

    Returns:
        id, kind and folder of each.

    Raises:
        ValueError: if a subject is there already, the slices hold no brain, or writing fails.
    """
    wanted, out = list(wanted), user_path(out)
    there = [p for p in (out / phantom_id(k, seed, i) for k, i in wanted) if p.exists()]
    if there and not overwrite:
        raise ValueError(f"{there[0]} is already there: choose another folder, or give --overwrite")
    made = []
    with output_folder(out) as folder:
        remove_leftovers(folder)
        for kind, i in track(wanted, "phantom", "subject", show=progress):
            subject = make_phantom(kind, seed, i, slices)
            if slices is not None and not subject.brain.any():
                raise ValueError(f"the slices {slices[0]}:{slices[-1]} hold no brain: choose others, such as 70:89")
            with writing(out):
                path = write_phantom(subject, folder, overwrite)
            made.append({"id": subject.id, "kind": kind, "folder": str(path)})
    return made
