"""A case: one patient's aligned volumes in LPS, where the brain is, and where the lesion is if that is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np
import torch

from mmccd.cases.brain import brain_mask, check_brain, check_lesion, check_values, unmeasured, without_background
from mmccd.cases.grid import Grid, check_same_grid
from mmccd.cases.names import case_id, find_files
from mmccd.cases.nifti import read_labels, read_volume, write_nifti
from mmccd.errors import file_error
from mmccd.files import user_path
from mmccd.intensity import BACKGROUND, DEFAULT, normalise
from mmccd.phantom import Phantom
from mmccd.slices import to_slices

PathLikeStr = str | PathLike[str]


def read_case(
    files: Mapping[str, PathLikeStr], seg: PathLikeStr | None = None, brain: PathLikeStr | None = None
) -> dict[str, Any]:
    """Read the files of a case and check that they lie on one grid.

    Args:
        files: path by modality.
        seg: path of a lesion segmentation, 0 outside the lesion.
        brain: path of a brain mask; without one the brain is found in the volumes.

    Returns:
        The fields of a `Case` but its id: volumes, affine, brain, lesion, grid.

    Raises:
        ValueError: if there is no image, an image is empty, or two files lie on different grids.
    """
    if not files:
        raise ValueError("A case needs at least one image, but none was given; name a file.")
    volumes: dict[str, np.ndarray] = {}
    masks: dict[str, np.ndarray | None] = {"lesion": None, "brain": None}
    grids: dict[PathLikeStr, Grid] = {}
    for name, path in files.items():
        v, grids[path] = read_volume(path)
        if not (v[:, :, v.shape[2] // 2].any() or v.any()):
            raise file_error(path, "every voxel is 0", "export it again")
        volumes[name] = v
    for name, path in (("lesion", seg), ("brain", brain)):
        if path:
            labels, grids[path] = read_labels(path)
            masks[name] = labels > 0
    first, grid = next(iter(grids.items()))
    for path, other in grids.items():
        check_same_grid(other, path, grid, first)
    if masks["brain"] is None:
        masks["brain"] = brain_mask(volumes, first)
    found, notes = look_over(volumes, masks["brain"], grid.lps_affine, first)
    notes = grid_notes({m: grids[p] for m, p in files.items()}) + notes + check_lesion(masks["lesion"], masks["brain"])
    return dict(volumes=volumes, affine=grid.lps_affine, grid=grid, notes=notes, unmeasured=found, **masks)


def look_over(
    volumes: Mapping[str, np.ndarray], brain: np.ndarray, affine: np.ndarray, name: object
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return where modalities were not measured, and what a person should know of brain and values.

    Args:
        volumes: (x, y, z) by modality.
        brain: bool (x, y, z).
        affine: (4, 4), voxel index to millimetres.
        name: what to call the case in an error.

    Raises:
        ValueError: if the brain is none.
    """
    regions: dict[str, np.ndarray] = {}
    notes = check_brain(brain, affine, name)
    for m, v in volumes.items():
        notes += [f"{m}: {note}" for note in check_values(v, brain)]
        region = unmeasured(v, brain, affine)
        if region is not None:
            regions[m] = region
            share = np.count_nonzero(region) / np.count_nonzero(brain)
            notes.append(f"{m}: {share:.0%} of the brain is 0, as where it was not measured; that is left out")
    return regions, notes


def grid_notes(grids: Mapping[str, Grid]) -> list[str]:
    """Return what a person should know of where the voxels lie; `grids` by modality, one note for all that share it."""
    found: dict[str, list[str]] = {}
    for name, grid in grids.items():
        for note in grid.notes:
            found.setdefault(note, []).append(name)
    return [f"{', '.join(names)}: {note}" for note, names in found.items()]


@dataclass(eq=False)
class Case:
    """One patient.

    Attributes:
        id: name of the case, used for results.
        volumes: (x, y, z) float32 in LPS by modality ("flair", "t1", "t1ce", "t2"), in the numbers of the files.
        affine: (4, 4), LPS voxel index to millimetres.
        brain: (x, y, z) bool.
        lesion: (x, y, z) bool, or None where it is not known.
        grid: of the input, to write results back on.
        notes: what a person should know of how it was read, each as what follows "ID: "; for warnings and records.
        unmeasured: by modality, bool (x, y, z): large regions of the brain that it does not show.
    """

    id: str
    volumes: dict[str, np.ndarray]
    affine: np.ndarray
    brain: np.ndarray
    lesion: np.ndarray | None
    grid: Grid
    notes: list[str] = field(default_factory=list)
    unmeasured: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def from_files(
        cls,
        files: Mapping[str, PathLikeStr],
        seg: PathLikeStr | None = None,
        id: str | None = None,
        brain: PathLikeStr | None = None,
    ) -> Case:
        """Read a case from named files; see `read_case`. Without `id` the first file's name gives it."""
        files = {modality: user_path(path) for modality, path in files.items()}
        seg, brain = (user_path(path) if path else None for path in (seg, brain))
        return cls(id=id or case_id(next(iter(files.values()), "")), **read_case(files, seg, brain))

    @classmethod
    def load(cls, path: PathLikeStr, modalities: str | Sequence[str] | None = None) -> Case:
        """Read a case from its folder, in any BraTS naming, or from a single file.

        Args:
            path: the folder, or the file.
            modalities: which to read; None takes all that are clear.

        Raises:
            ValueError: if something about the files is wrong, in one sentence.
        """
        path = user_path(path)
        files = find_files(path, modalities)
        case = cls.from_files(files.images, files.seg, id=case_id(path))
        case.notes[:0] = files.notes
        return case

    from_folder = load

    @classmethod
    def from_phantom(cls, phantom: Phantom, twin: bool = False, modalities: str | Sequence[str] | None = None) -> Case:
        """Take a case from a phantom in memory; `twin` takes the same head without the lesion.

        Raises:
            ValueError: if the phantom was made without its twin.
        """
        volumes = phantom.volumes
        if twin:
            if phantom.twin is None:
                raise ValueError(f"{phantom.id} was made without its healthy twin.")
            volumes = phantom.twin
        wanted = [modalities] if isinstance(modalities, str) else modalities or list(volumes)
        volumes = {m: volumes[m] for m in wanted}
        lesion, grid = (phantom.labels > 0) & (not twin), Grid(phantom.brain.shape, phantom.affine)
        brain = brain_mask(volumes, phantom.id)
        return cls(phantom.id + "_healthy_twin" * twin, volumes, grid.lps_affine, brain, lesion, grid)

    def normalised(self, modality: str, method: str = DEFAULT) -> np.ndarray:
        """Return the volume of a modality, (x, y, z) float32, healthy brain in about [-1, 1], background -1.

        Args:
            modality: one that the case has.
            method: a name in `intensity.METHODS`.

        Raises:
            ValueError: if the case has no such modality, or its brain has no contrast.
        """
        if modality not in self.volumes:
            raise ValueError(f"Case {self.id} has no {modality}, only {', '.join(self.volumes)}.")
        volume, name = self.volumes[modality], f"{modality} of {self.id}"
        if method in BACKGROUND:
            volume = without_background(volume)  # "published" rests on what is above 0
        return normalise(volume, self.measured(modality), method, name, modality)

    def measured(self, modality: str) -> np.ndarray:
        """Return where in the brain a modality was measured, bool (x, y, z)."""
        return self.brain & ~self.unmeasured[modality] if modality in self.unmeasured else self.brain

    def slices(self, modality: str, index: Any = None, method: str = DEFAULT) -> torch.Tensor:
        """Return normalised axial slices (b 1 h w) at `index` (None: all), as `slices.to_slices`."""
        return self._cut(self.normalised(modality, method), index)

    def brain_slices(self, index: Any = None) -> torch.Tensor:
        """Return the brain mask as axial slices, bool (b 1 h w)."""
        return self._cut(self.brain, index)

    def lesion_slices(self, index: Any = None) -> torch.Tensor | None:
        """Return the lesion as axial slices, bool (b 1 h w); None where it is not known."""
        return None if self.lesion is None else self._cut(self.lesion, index)

    def _cut(self, volume: np.ndarray, index: Any) -> torch.Tensor:
        try:
            return to_slices(volume, index)
        except ValueError as error:
            raise ValueError(f"{self.id}: {error}") from error

    def save(self, volume: np.ndarray, path: PathLikeStr) -> None:
        """Write a volume (x, y, z) in LPS onto the grid of the input; see `nifti.write_nifti`."""
        write_nifti(volume, self.grid, user_path(path))
