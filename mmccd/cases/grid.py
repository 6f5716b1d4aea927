""""""

from dataclasses import dataclass, field

import nibabel as nib
import numpy as np
from nibabel import orientations as ornt

from mmccd.errors import file_error
from mmccd.slices import SLICE_RANGE

GEOMETRY = (
    "pixdim",
    "xyzt_units",
    "qform_code",
    "sform_code",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
)


@dataclass(frozen=True, eq=False)
class Grid:
    "Where the voxels of a file lie, and the way from its axes to LPS and back."

    shape: tuple  # voxels along the file's three axes
    affine: np.ndarray  # (4, 4), voxel index to millimetres
    geometry: dict = field(default_factory=dict)  # header fields that say the same, kept as they are
    image: type = nib.Nifti1Image  # NIfTI-1 or NIfTI-2

    @classmethod
    def of(cls, image):  # open NIfTI image
        "The grid of an image."
        return cls(tuple(image.shape[:3]), image.affine, {k: image.header[k].copy() for k in GEOMETRY}, type(image))

    @property
    def turn(self):
        "Which axis goes where and whether it is flipped, from the file to LPS."
        return ornt.ornt_transform(ornt.io_orientation(self.affine), ornt.axcodes2ornt("LPS"))

    @property
    def lps_affine(self):
        "Affine of the volume once it lies in LPS."
        return self.affine @ ornt.inv_ornt_aff(self.turn, self.shape)

    @property
    def lps_shape(self):
        "Voxels along the three axes in LPS."
        return tuple(int(self.shape[axis]) for axis in np.argsort(self.turn[:, 0]))

    def to_lps(self, array):  # (i, j, k) on the file's axes
        "Turn an array into LPS."
        return np.ascontiguousarray(ornt.apply_orientation(array, self.turn))

    def from_lps(self, array):  # (x, y, z) in LPS
        "Turn an array back onto the file's axes."
        back = ornt.ornt_transform(ornt.axcodes2ornt("LPS"), ornt.io_orientation(self.affine))
        return np.ascontiguousarray(ornt.apply_orientation(array, back))


def check_same_grid(
    grid: Grid,  # of the second file
    path,  # the second file
    first: Grid,  # of the first file
    first_path,  # the first file
):
    "Refuse two files whose voxels do not lie in the same places, to a tenth of a voxel."
    a, b = grid.lps_shape, first.lps_shape
    if a != b:
        raise file_error(path, f"its shape {a} is not the {b} of {first_path}", "resample one onto the other")
    corners = np.array([(*c, 1) for c in np.ndindex(2, 2, 2)]) * (*np.subtract(a, 1), 1)
    apart = np.abs(corners @ (grid.lps_affine - first.lps_affine).T).max()
    if apart > 0.1 * np.linalg.norm(first.affine[:3, :3], axis=0).min():
        raise file_error(
            path,
            f"its affine puts voxels {apart:.3g} mm away from those of {first_path}",
            "resample one onto the other",
        )


def volume_ml(
    mask: np.ndarray,  # bool (x, y, z)
    affine: np.ndarray,  # (4, 4), voxel index to millimetres
) -> float:  # millilitres
    "How much tissue is marked?"
    return float(mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000)


def voxel_size(
    affine: np.ndarray,  # (4, 4), voxel index to millimetres
) -> np.ndarray:  # mm along the three axes of the grid; a shear is not looked at
    "How far is it to the next voxel?"
    return np.linalg.norm(affine[:3, :3], axis=0)


def protocol_slices(
    shape: tuple,  # voxels along the three LPS axes
    affine: np.ndarray,  # (4, 4) of the LPS grid
) -> range:  # axial indices to choose from
    "Slices 70 to 89 of the BraTS grid, wherever they lie in this volume; on another grid all slices."
    z = affine[2, 3] + np.arange(shape[2])
    is_brats = tuple(shape[:2]) == (240, 240) and np.allclose(affine[:3, :3], np.diag([-1, -1, 1]), atol=1e-3)
    inside = np.flatnonzero((z > SLICE_RANGE[0] - 0.5) & (z < SLICE_RANGE[-1] + 0.5)) if is_brats else []
    return range(inside[0], inside[-1] + 1) if len(inside) else range(shape[2])
