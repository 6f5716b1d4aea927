""""""

import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel import orientations as ornt

from mmccd.cases.grid import Grid
from mmccd.errors import file_error


def check_header(
    image,  # open NIfTI image
    path,  # its path, for the message
):
    "Refuse what is not one grey-valued volume on a proper grid; a fourth axis of length one is harmless."
    shape, dtype, axes = image.shape, image.get_data_dtype(), image.affine[:3, :3]
    if min(shape, default=0) < 1:
        raise file_error(path, f"its shape {shape} holds no voxel", "export it again")
    if len(shape) < 3:
        raise file_error(path, f"it is {len(shape)}-D with shape {shape}, not a volume", "save one slice as (x, y, 1)")
    if max(shape[3:], default=1) > 1:
        raise file_error(
            path, f"it is {len(shape)}-D with shape {shape}, not one volume", "save a single 3-D volume of it"
        )
    if dtype.kind not in "iuf":
        raise file_error(path, f"its voxels are not numbers but {dtype}", "save it in grey values")
    sides = np.linalg.norm(axes, axis=0)
    if not np.isfinite(image.affine).all() or not sides.all() or abs(np.linalg.det(axes / sides)) < 1e-3:
        raise file_error(
            path,
            "its header does not say where the voxels lie (the affine is singular)",
            "convert it from the original again",
        )


def open_nifti(
    path,  # path of a .nii or .nii.gz file
):  # nibabel image, its data not yet read
    "Open a NIfTI file and check what its header promises."
    path = Path(path)
    if not path.exists():
        raise file_error(
            path, "there is no such file or folder" + " behind this link" * path.is_symlink(), "check the path"
        )
    if path.is_dir():
        raise file_error(path, "it is a folder, not a file", "name a file")
    if not path.stat().st_size:
        raise file_error(path, "the file is empty (0 bytes)", "copy or download it again")
    try:
        image = nib.load(path)
    except PermissionError as error:
        raise file_error(path, "permission is denied", "allow reading it") from error
    except nib.filebasedimages.ImageFileError as error:
        raise file_error(path, "it is not a NIfTI image", "convert it to .nii.gz, or copy it again") from error
    except Exception as error:
        raise file_error(path, "its header is damaged", "copy or download it again") from error
    if not isinstance(image, nib.Nifti1Image):
        raise file_error(path, "it is not a NIfTI volume", "convert it to .nii.gz")
    check_header(image, path)
    return image


def read_array(
    path,  # path of a .nii or .nii.gz file
) -> tuple:  # (i, j, k) array in the numbers of the file, its scale applied, and its `Grid`
    "Read a file to its very end, once: gzip compares a checksum there."
    image = open_nifti(path)
    try:
        stored = image.dataobj
        if Path(path).suffix.lower() == ".gz":
            with igzip.open(path) as file:
                raw = file.read()  # isal: three times as fast as zlib
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


def read_volume(
    path,  # path of a .nii or .nii.gz file
) -> tuple:  # (x, y, z) float32 in LPS, and its `Grid`
    "Read one volume; in memory it lies slice by slice, as in the file."
    array, grid = read_array(path)
    with np.errstate(over="ignore"):
        data = ornt.apply_orientation(array, grid.turn).astype(np.float32, order="F")
    if array.dtype.kind == "f" and not np.isfinite(data).all():
        bad = data.size - np.isfinite(data).sum()
        raise file_error(
            path,
            f"{bad} of its voxels are NaN or infinite",
            "set them to 0 (fslmaths IN -nan OUT, or NumPy's nan_to_num)",
        )
    return data, grid


def read_labels(
    path,  # path of a segmentation or mask
) -> tuple:  # (x, y, z) uint8 in LPS, and its `Grid`
    "Read a segmentation, whose voxels are whole numbers."
    data, grid = read_array(path)
    if data.dtype == np.uint8:
        return np.array(
            ornt.apply_orientation(data, grid.turn), order="F"
        ), grid  # as most are stored: nothing to check
    data, grid = read_volume(path)
    if np.abs(data - data.round()).max() > 1e-3 or data.min() < -1e-3 or data.max() > 255.5:
        raise file_error(
            path,
            f"its values, {data.min():g} to {data.max():g}, are not whole labels from 0 to 255",
            "give a segmentation that is 0 outside the lesion",
        )
    return data.round().astype(np.uint8), grid


def as_stored(
    array: np.ndarray,  # any dtype
) -> np.ndarray:  # float32, uint8 or int32
    "Truth values and labels become uint8, other whole numbers int32, the rest float32."
    array = np.asarray(array)
    if array.dtype.kind not in "biu":
        return array.astype(np.float32)
    return array.astype(np.uint8 if array.min() >= 0 and array.max() < 256 else np.int32)


def write_nifti(
    array: np.ndarray,  # (x, y, z) in LPS
    grid: Grid,  # where it belongs
    path,  # .nii or .nii.gz file to write, in a folder that exists
):
    "Write `array` on `grid`, whole or not at all: beside the target first, then renamed."
    path = Path(path)
    if not re.search(r"\.nii(\.gz)?$", path.name):
        raise ValueError(f"Cannot write {path}: its name must end in .nii or .nii.gz.")
    if array.shape != grid.lps_shape:
        raise ValueError(f"Cannot write {path}: its shape {array.shape} is not the case's {grid.lps_shape}.")
    image = grid.image(grid.from_lps(as_stored(array)), grid.affine)
    for k, value in ({"xyzt_units": 2} | grid.geometry).items():
        image.header[k] = value  # 2: millimetres
    beside = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        nib.save(image, beside)
        os.replace(beside, path)
    except OSError as error:
        raise ValueError(f"Cannot write {path}: {error.strerror or error}; choose another place.") from error
    finally:
        if beside.exists():
            beside.unlink()
