"""Where the voxels of a file lie: its grid, the way to LPS and back, sizes in millimetres."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike

import nibabel as nib
import numpy as np
from nibabel import orientations as ornt

from mmccd.cases.header import Header
from mmccd.errors import file_error
from mmccd.slices import SLICE_RANGE, brats_offset, slice_places

# header fields that say where the voxels lie
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
    """Where the voxels of a file lie, and the way from its axes to LPS (left, posterior, superior) and back.

    Attributes:
        shape: voxels along the file's three axes.
        affine: (4, 4), voxel index to millimetres.
        geometry: header fields that say the same, in the unit of the file.
        image: class of the image, NIfTI-1 or NIfTI-2.
        notes: what a person should know of where the voxels lie.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    geometry: dict[str, np.ndarray] = field(default_factory=dict)
    image: type[nib.Nifti1Image] = nib.Nifti1Image
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, header: Header) -> Grid:
        """Return the grid that a header describes."""
        geometry = {k: header.fields[k].copy() for k in GEOMETRY}
        return cls(header.shape, header.affine, geometry, header.image, tuple(header.notes))

    @property
    def oriented(self) -> bool:
        """Does the file say where left and right are?"""
        return not self.geometry or bool(self.geometry["qform_code"] or self.geometry["sform_code"])

    @property
    def turn(self) -> np.ndarray:
        """Which axis goes where and whether it is flipped, from the file to LPS, as nibabel's orientations."""
        return ornt.ornt_transform(ornt.io_orientation(self.affine), ornt.axcodes2ornt("LPS"))

    @property
    def lps_affine(self) -> np.ndarray:
        """Affine (4, 4) of the volume once it lies in LPS."""
        return self.affine @ ornt.inv_ornt_aff(self.turn, self.shape)

    @property
    def lps_shape(self) -> tuple[int, ...]:
        """Voxels along the three axes in LPS."""
        return tuple(int(self.shape[axis]) for axis in np.argsort(self.turn[:, 0]))

    def from_lps(self, array: np.ndarray) -> np.ndarray:
        """Turn an array (x, y, z) in LPS back onto the file's axes."""
        back = ornt.ornt_transform(ornt.axcodes2ornt("LPS"), ornt.io_orientation(self.affine))
        return np.ascontiguousarray(ornt.apply_orientation(array, back))


def check_same_grid(grid: Grid, path: str | PathLike[str], first: Grid, first_path: str | PathLike[str]) -> None:
    """Check that the voxels of two files lie in the same places, to a tenth of a voxel.

    Args:
        grid: of the file at `path`.
        path: the file that is refused if it does not fit.
        first: of the file at `first_path`.
        first_path: the file that was there first.

    Raises:
        ValueError: if shapes differ or voxels lie apart.
    """
    a, b = grid.lps_shape, first.lps_shape
    if a != b:
        raise file_error(path, f"its shape {a} is not the {b} of {first_path}", "resample one onto the other")
    corners = np.array([(*c, 1) for c in np.ndindex(2, 2, 2)]) * (*np.subtract(a, 1), 1)
    apart = np.abs(corners @ (grid.lps_affine - first.lps_affine).T).max()
    if apart > 0.1 * voxel_size(first.affine).min():
        wrong = f"its affine puts voxels {apart:.3g} mm away from those of {first_path}"
        if grid.oriented != first.oriented:
            wrong += (
                f" (the header of {'the latter' if grid.oriented else 'the former'} does not say how the head lies)"
            )
        raise file_error(path, wrong, "resample one onto the other")


def volume_ml(mask: np.ndarray, affine: np.ndarray) -> float:
    """Return the volume in millilitres of what is marked in a mask (x, y, z) with affine (4, 4) in millimetres."""
    return float(mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000)


def voxel_size(affine: np.ndarray) -> np.ndarray:
    """Return the distance in millimetres to the next voxel along each of the three axes; a shear does not count."""
    return np.linalg.norm(affine[:3, :3], axis=0)


def protocol_slices(shape: tuple[int, ...], affine: np.ndarray) -> range:
    """Return the axial indices that the slice protocol chooses from.

    On the BraTS grid (see `slices.brats_offset`) these are slices 70 to 89 of that grid, wherever they lie in this
    volume; on another grid, or where none of them is in the volume, all slices.

    Args:
        shape: voxels along the three LPS axes.
        affine: (4, 4) of the LPS grid.
    """
    if brats_offset(shape, affine) is None:
        return range(shape[2])
    inside = np.flatnonzero(np.isin(slice_places(shape, affine), SLICE_RANGE))
    return range(inside[0], inside[-1] + 1) if len(inside) else range(shape[2])
