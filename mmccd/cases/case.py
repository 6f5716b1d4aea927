""""""

from dataclasses import dataclass

import numpy as np

from mmccd.cases.brain import brain_mask
from mmccd.cases.grid import Grid, check_same_grid
from mmccd.cases.names import case_id, choose_files
from mmccd.cases.nifti import read_labels, read_volume, write_nifti
from mmccd.errors import file_error
from mmccd.intensity import DEFAULT, normalise
from mmccd.slices import to_slices


def read_case(
    files: dict,  # path by modality
    seg=None,  # path of a lesion segmentation
    brain=None,  # path of a brain mask; without one it is found in the volumes
) -> dict:  # volumes, affine, brain, lesion and grid
    "Read the files of a case and check that they lie on one grid."
    if not files:
        raise ValueError("A case needs at least one image, but none was given; name a file.")
    volumes, masks, grids = {}, {}, {}
    for name, path in files.items():
        volumes[name], grids[path] = read_volume(path)
        v = volumes[name]
        if not (v[:, :, v.shape[2] // 2].any() or v.any()):
            raise file_error(path, "every voxel is 0", "export it again")
    for name, path in {"lesion": seg, "brain": brain}.items():
        masks[name], grids[path] = read_labels(path) if path else (None, None)
    first, grid = next(iter(grids.items()))
    for path in filter(None, grids):
        check_same_grid(grids[path], path, grid, first)
    masks = {name: m if m is None else m > 0 for name, m in masks.items()}
    if masks["brain"] is None:
        masks["brain"] = brain_mask(volumes, first)
    return dict(volumes=volumes, affine=grid.lps_affine, grid=grid, **masks)


@dataclass(eq=False)
class Case:
    "One patient: aligned volumes in LPS, where the brain is, and where the lesion is if that is known."

    id: str  # name of the case, used for results
    volumes: dict  # (x, y, z) float32 by modality
    affine: np.ndarray  # (4, 4), LPS voxel index to millimetres
    brain: np.ndarray  # (x, y, z) bool
    lesion: np.ndarray  # (x, y, z) bool, or None
    grid: Grid  # of the input, to write back on

    @classmethod
    def from_files(
        cls,
        files,  # path by modality, {"flair": path}
        seg=None,  # path of a lesion segmentation
        id=None,  # name of the case; None takes it from the first file
        brain=None,  # path of a brain mask; None finds the brain in the volumes
    ):
        "From named files."
        return cls(id=id or case_id(next(iter(files.values()), "")), **read_case(files, seg, brain))

    @classmethod
    def load(
        cls,
        path,  # folder of one case in any BraTS naming, or a single file
        modalities=None,  # a modality or a list of them; None takes all
    ):
        "From a folder or a single file."
        return cls.from_files(*choose_files(path, modalities), id=case_id(path))

    from_folder = load

    @classmethod
    def from_phantom(
        cls,
        phantom,  # a `Phantom`
        twin=False,  # its healthy twin instead
        modalities=None,  # a modality or a list of them; None takes all
    ):
        "From a phantom in memory."
        volumes = phantom.twin if twin else phantom.volumes
        volumes = {m: volumes[m] for m in ([modalities] if isinstance(modalities, str) else modalities or volumes)}
        lesion, grid = (phantom.labels > 0) & (not twin), Grid(phantom.brain.shape, phantom.affine)
        return cls(
            phantom.id + "_healthy_twin" * twin, volumes, grid.lps_affine, brain_mask(volumes, phantom.id), lesion, grid
        )

    def normalised(
        self,
        modality,  # "flair", "t1", "t1ce" or "t2"
        method=DEFAULT,  # as in `intensity.normalise`
    ):
        "The volume of `modality`, (x, y, z) float32, normalised."
        if modality not in self.volumes:
            raise ValueError(f"Case {self.id} has no {modality}, only {', '.join(self.volumes)}.")
        return normalise(self.volumes[modality], self.brain, method, f"{modality} of {self.id}", modality)

    # axial slices (b, 1, h, w) at `index`, as in `to_slices`: normalised, and the masks as bool
    def slices(self, modality, index=None, method=DEFAULT):
        return to_slices(self.normalised(modality, method), index)

    def brain_slices(self, index=None):
        return to_slices(self.brain, index)

    def lesion_slices(self, index=None):
        return None if self.lesion is None else to_slices(self.lesion, index)

    def save(self, volume, path):
        write_nifti(volume, self.grid, path)
