"""Reading and writing NIfTI volumes: checked hard on the way in, whole or not at all on the way out."""

import gzip
import re
from os import PathLike
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel import orientations as ornt
from nibabel.filebasedimages import ImageFileError

from mmccd.cases.grid import Grid
from mmccd.errors import file_error
from mmccd.files import replacing

PathLikeStr = str | PathLike[str]


def check_header(image: nib.Nifti1Image, path: PathLikeStr) -> None:
    """Check that an image is one grey-valued volume on a proper grid; a fourth axis of length one is harmless.

    Args:
        image: an open NIfTI image.
        path: its path, for the error.

    Raises:
        ValueError: if it has no voxel, fewer than three axes or several volumes, voxels that are not numbers, or a
            singular affine.
    """
    shape, dtype, affine = image.shape, image.get_data_dtype(), np.asarray(image.affine)
    axes = affine[:3, :3]
    if min(shape, default=0) < 1:
        raise file_error(path, f"its shape {shape} holds no voxel", "export it again")
    if len(shape) < 3:
        raise file_error(path, f"it is {len(shape)}-D with shape {shape}, not a volume", "save one slice as (x, y, 1)")
    if max(shape[3:], default=1) > 1:
        wrong = f"it is {len(shape)}-D with shape {shape}, not one volume"
        raise file_error(path, wrong, "save a single 3-D volume of it")
    if dtype.kind not in "iuf":
        raise file_error(path, f"its voxels are not numbers but {dtype}", "save it in grey values")
    sides = np.linalg.norm(axes, axis=0)
    if not np.isfinite(affine).all() or not sides.all() or abs(np.linalg.det(axes / sides)) < 1e-3:
        wrong = "its header does not say where the voxels lie (the affine is singular)"
        raise file_error(path, wrong, "convert it from the original again")


def open_nifti(path: PathLikeStr) -> nib.Nifti1Image:
    """Open a .nii or .nii.gz file and check what its header promises; the data are not yet read.

    Raises:
        ValueError: if there is no such file, it is no NIfTI image, or `check_header` refuses it.
    """
    path = Path(path)
    if not path.exists():
        wrong = "there is no such file or folder" + " behind this link" * path.is_symlink()
        raise file_error(path, wrong, "check the path")
    if path.is_dir():
        raise file_error(path, "it is a folder, not a file", "name a file")
    if not path.stat().st_size:
        raise file_error(path, "the file is empty (0 bytes)", "copy or download it again")
    try:
        image = nib.load(path)
    except PermissionError as error:
        raise file_error(path, "permission is denied", "allow reading it") from error
    except ImageFileError as error:
        raise file_error(path, "it is not a NIfTI image", "convert it to .nii.gz, or copy it again") from error
    except Exception as error:
        raise file_error(path, "its header is damaged", "copy or download it again") from error
    if not isinstance(image, nib.Nifti1Image):
        raise file_error(path, "it is not a NIfTI volume", "convert it to .nii.gz")
    check_header(image, path)
    return image


def read_array(path: PathLikeStr) -> tuple[np.ndarray, Grid]:
    """Read a .nii or .nii.gz file to its very end, once: gzip compares a checksum there.

    Returns:
        The array (i, j, k) in the numbers of the file, its scale applied, and its grid.

    Raises:
        ValueError: as `open_nifti`, or if the data are cut off or damaged.
    """
    image = open_nifti(path)
    try:
        stored: Any = image.dataobj
        if Path(path).suffix.lower() == ".gz":
            with igzip.open(path, "rb") as file:
                raw: Any = file.read()  # isal: three times as fast as zlib
            if (stored.slope, stored.inter) == (1, 0):
                data = np.ndarray(stored.shape, stored.dtype, raw, stored.offset, order="F")
            else:
                data = np.asanyarray(type(image).from_bytes(raw).dataobj)
        else:
            data = np.asanyarray(stored)
        data = data.reshape(image.shape[:3])
    except Exception as error:
        raise file_error(path, "its data is cut off or damaged", "copy or download it again") from error
    return data, Grid.of(image)


def read_volume(path: PathLikeStr) -> tuple[np.ndarray, Grid]:
    """Read one volume as float32 (x, y, z) in LPS, and its grid; in memory it lies slice by slice, as in the file.

    Raises:
        ValueError: as `read_array`, or if a voxel is NaN or infinite.
    """
    array, grid = read_array(path)
    with np.errstate(over="ignore"):
        data = ornt.apply_orientation(array, grid.turn).astype(np.float32, order="F")
    if array.dtype.kind == "f" and not np.isfinite(data).all():
        bad = data.size - np.isfinite(data).sum()
        todo = "set them to 0 (fslmaths IN -nan OUT, or NumPy's nan_to_num)"
        raise file_error(path, f"{bad} of its voxels are NaN or infinite", todo)
    return data, grid


def read_labels(path: PathLikeStr) -> tuple[np.ndarray, Grid]:
    """Read a segmentation or mask as uint8 (x, y, z) in LPS, and its grid.

    Raises:
        ValueError: as `read_volume`, or if the voxels are not whole numbers from 0 to 255.
    """
    data, grid = read_array(path)
    if data.dtype == np.uint8:  # as most are stored: nothing to check
        return np.array(ornt.apply_orientation(data, grid.turn), order="F"), grid
    data, grid = read_volume(path)
    if np.abs(data - data.round()).max() > 1e-3 or data.min() < -1e-3 or data.max() > 255.5:
        wrong = f"its values, {data.min():g} to {data.max():g}, are not whole labels from 0 to 255"
        raise file_error(path, wrong, "give a segmentation that is 0 outside the lesion")
    return data.round().astype(np.uint8), grid


def as_stored(array: np.ndarray) -> np.ndarray:
    """Return the array in the type it is stored in: truth values and labels uint8, whole numbers int32, or float32."""
    array = np.asarray(array)
    if array.dtype.kind not in "biu":
        return array.astype(np.float32)
    return array.astype(np.uint8 if array.min() >= 0 and array.max() < 256 else np.int32)


def write_nifti(array: np.ndarray, grid: Grid, path: PathLikeStr) -> None:
    """Write an array (x, y, z) in LPS onto its grid, whole or not at all: beside the target first, then renamed.

    Args:
        array: of any type; see `as_stored`.
        grid: where it belongs.
        path: .nii or .nii.gz file to write, in a folder that exists.

    Raises:
        ValueError: if the name ends otherwise, the shape is not the grid's, or writing fails.
    """
    path = Path(path)
    if not re.search(r"\.nii(\.gz)?$", path.name):
        raise ValueError(f"Cannot write {path}: its name must end in .nii or .nii.gz.")
    if array.shape != grid.lps_shape:
        raise ValueError(f"Cannot write {path}: its shape {array.shape} is not the case's {grid.lps_shape}.")
    image = grid.image(grid.from_lps(as_stored(array)), grid.affine)
    for k, value in ({"xyzt_units": 2} | grid.geometry).items():  # 2: millimetres
        image.header[k] = value
    try:
        with replacing(path) as file:
            if path.suffix == ".gz":
                with gzip.GzipFile("", "wb", 1, file, 0) as zipped:  # no name and no date: the same bytes every time
                    image.to_stream(zipped)
            else:
                image.to_stream(file)
    except OSError as error:
        raise ValueError(f"Cannot write {path}: {error.strerror or error}; choose another place.") from error
