"""What the header of a NIfTI file claims, checked in Python's own integers before anything is allocated for it."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from os import PathLike

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import native_code

from mmccd.errors import file_error

PathLikeStr = str | PathLike[str]

SHORTEST = 348  # bytes of the shorter of the two headers
MOST_MEMORY = 4 * 2**30  # bytes that the voxels of one file may take, as they are stored and as float32 together
MOST_EXTENSIONS = 64 * 2**20  # bytes between header and voxels
SIDES = (0.05, 20.0)  # millimetres that a voxel may measure
LONGEST = 2000.0  # millimetres that a volume may measure
FARTHEST = 10_000.0  # millimetres that a volume may lie from the origin of its space
UNITS = {1: 1000.0, 3: 1e-3}  # xyzt_units: metres and micrometres in millimetres; all others are taken for these
NOT_ORIENTED = "its header does not say how the head lies (sform and qform are not set); left and right are not known"
CODES = range(6)  # of qform and sform
ROUNDING = 1e-3  # by how much the quaternion of a qform may be longer than 1
LONGER = 1e-7  # what float32 cannot help

# how files of other kinds begin, what they are, and what to do
OTHERS = (
    (b"\x1f\x8b", "it was compressed twice", "decompress it once (gunzip)"),
    (b"BZh", "it is compressed with bzip2, not gzip", "decompress it first (bunzip2)"),
    (b"\xfd7zXZ", "it is compressed with xz, not gzip", "decompress it first (unxz)"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd, not gzip", "decompress it first (unzstd)"),
    (b"PK\x03\x04", "it is a ZIP archive, not a NIfTI image", "unpack it first"),
    (b"NRRD", "it is an NRRD image, not a NIfTI image", "convert it to .nii.gz (in 3D Slicer, or with SimpleITK)"),
    (b"\0\0\0\1", "it is an MGH image of FreeSurfer, not a NIfTI image", "convert it with mri_convert IN OUT.nii.gz"),
    (b"CDF", "it is a MINC image, not a NIfTI image", "convert it with mnc2nii"),
    (b"\x89HDF", "it is an HDF5 or MINC file, not a NIfTI image", "convert it to .nii.gz"),
    (b"ObjectType", "it is a MetaImage, not a NIfTI image", "convert it to .nii.gz (with SimpleITK)"),
    (b"version https://git-lfs", "it only stands for a file in Git LFS", "fetch the file with git lfs pull"),
    (b"/annex/objects", "it only stands for a file in git-annex", "fetch the file with datalad get"),
)


@dataclass(frozen=True, eq=False)
class Header:
    """What a header says, once it has been found plausible.

    Attributes:
        fields: the header itself, in the computer's byte order, small flaws mended.
        image: class of the image, NIfTI-1 or NIfTI-2.
        shape: voxels along the file's three axes.
        dtype: of a stored voxel, byte order included.
        offset: bytes before the first voxel.
        scale: slope and intercept; None where the stored numbers count.
        affine: (4, 4), voxel index to millimetres.
        notes: what a person should know of it.
    """

    fields: nib.Nifti1Header
    image: type[nib.Nifti1Image]
    shape: tuple[int, int, int]
    dtype: np.dtype
    offset: int
    scale: tuple[float, float] | None
    affine: np.ndarray
    notes: list[str] = field(default_factory=list)

    @property
    def voxels(self) -> str:
        """Voxels along the three axes, for a message."""
        return " x ".join(map(str, self.shape))

    @property
    def n_bytes(self) -> int:
        """Bytes that the voxels take in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def other_kind(start: bytes, path: PathLikeStr) -> ValueError:
    """Return the error for a file that does not begin as NIfTI does, from its first bytes."""
    for magic, wrong, todo in OTHERS:
        if start.startswith(magic):
            return file_error(path, wrong, todo)
    if start[128:132] == b"DICM":
        return file_error(path, "it is a DICOM file, not a NIfTI image", "convert it with dcm2niix")
    if len(start) >= 44 and SHORTEST in struct.unpack("<i", start[:4]) + struct.unpack(">i", start[:4]):
        wrong = "it is not a NIfTI image but an Analyze image, which does not say where the voxels lie"
        return file_error(path, wrong, "convert it from the original again")
    return file_error(path, "it is not a NIfTI image", "convert it to .nii.gz, or copy it again")


def header_size(start: bytes, path: PathLikeStr) -> int:
    """Return how many bytes a header takes, 348 or 540, from the first 348 of a file.

    Raises:
        ValueError: if it is no NIfTI file that holds its own voxels.
    """
    size = next((n for order in "<>" for n in (348, 540) if start[:4] == struct.pack(f"{order}i", n)), 0)
    if size and len(start) < SHORTEST:
        raise file_error(path, "its data is cut off or damaged", "copy or download it again")
    magic = start[4:8] if size == 540 else start[344:348]
    if magic in (b"ni1\0", b"ni2\0"):
        wrong = "its header says that the voxels lie in a second file (.img)"
        raise file_error(path, wrong, "convert the pair .hdr and .img to one .nii.gz")
    if magic != {348: b"n+1\0", 540: b"n+2\0"}.get(size):
        raise other_kind(start, path)
    return size


def parse_header(raw: bytes, path: PathLikeStr) -> Header:
    """Return what a header says.

    Args:
        raw: its bytes, as many as `header_size` says.
        path: of the file, for the error.

    Raises:
        ValueError: if it is not the header of one volume of numbers on a proper grid.
    """
    image = nib.Nifti1Image if len(raw) == SHORTEST else nib.Nifti2Image
    order = "<" if raw[:4] == struct.pack("<i", len(raw)) else ">"
    stored = image.header_class(raw, order, check=False)
    shape, dtype = stored_shape(stored, path), stored_dtype(stored, path)
    fields = stored.as_byteswapped(native_code)
    fields["dim"] = [3, *shape, 1, 1, 1, 1]
    with np.errstate(all="ignore"):  # nonsense may overflow on the way to being refused
        affine, notes = where_it_lies(fields, path)
    offset = stored_offset(stored, 544 if len(raw) == 540 else 352, path)
    return Header(fields, image, shape, dtype, offset, stored_scale(stored, path), affine, notes)


def stored_shape(header: nib.Nifti1Header, path: PathLikeStr) -> tuple[int, int, int]:
    """Return the voxels along three axes; a fourth axis of length one is harmless.

    Raises:
        ValueError: if there is no voxel, there are fewer than three axes, or several volumes.
    """
    n, *dims = (int(d) for d in header["dim"])
    if not 1 <= n <= 7:
        raise file_error(path, f"its header is damaged: it says that the image is {n}-D", "copy or download it again")
    shape = tuple(dims[:n])
    if min(shape) < 1:
        raise file_error(path, f"its shape {shape} holds no voxel", "export it again")
    if n < 3:
        raise file_error(path, f"it is {n}-D with shape {shape}, not a volume", "save one slice as (x, y, 1)")
    if max(shape[3:], default=1) > 1:
        wrong = f"it is {n}-D with shape {shape}, not one volume"
        raise file_error(path, wrong, "save a single 3-D volume of it")
    return shape[0], shape[1], shape[2]


def stored_dtype(header: nib.Nifti1Header, path: PathLikeStr) -> np.dtype:
    """Return the type of a stored voxel.

    Raises:
        ValueError: if it is unknown, no real number, or takes other bits than the header says.
    """
    code, bits = int(header["datatype"]), int(header["bitpix"])
    try:
        dtype = header.get_data_dtype()
    except (KeyError, HeaderDataError):
        dtype = np.dtype("V")
    if not dtype.itemsize:
        wrong = f"its header gives its voxels the type {code}, which is none"
        raise file_error(path, wrong, "save it as int16 or float32")
    if dtype.kind not in "iuf":
        if dtype.kind == "c":
            raise file_error(path, "its voxels are complex numbers, not grey values", "save their magnitude")
        raise file_error(path, "its voxels are colours, not grey values", "save it in grey values")
    if bits != 8 * dtype.itemsize:
        wrong = f"its header is damaged: it says that a voxel of type {dtype.name} takes {bits} bits"
        raise file_error(path, wrong, "copy or convert it again")
    return dtype


def stored_offset(header: nib.Nifti1Header, least: int, path: PathLikeStr) -> int:
    """Return how many bytes lie before the first voxel.

    Args:
        header: any.
        least: bytes of the header and the four that follow it.
        path: of the file, for the error.

    Raises:
        ValueError: if it is no whole number, or none that a file can have.
    """
    value = header["vox_offset"].item()
    if not (math.isfinite(value) and value == int(value) and least <= value <= MOST_EXTENSIONS):
        wrong = f"its header is damaged: it says that the voxels begin at byte {value:.9g}"
        raise file_error(path, wrong, "copy or convert it again")
    return int(value)


def stored_scale(header: nib.Nifti1Header, path: PathLikeStr) -> tuple[float, float] | None:
    """Return slope and intercept, or None where they change nothing; a slope of 0 or NaN means that it is not set.

    Raises:
        ValueError: if they are set and infinite, or the intercept is NaN.
    """
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope) or (slope, inter) == (1, 0):
        return None
    if not math.isfinite(slope) or not math.isfinite(inter):
        wrong = f"its header is damaged: it says that values are scaled by {slope:g} and moved by {inter:g}"
        raise file_error(path, wrong, "copy or convert it again")
    return slope, inter


def check_extensions(start: bytes, size: int, path: PathLikeStr) -> None:
    """Check that what lies between header and voxels is a chain of extensions that ends before the voxels.

    Args:
        start: all bytes before the first voxel.
        size: bytes of the header.
        path: of the file, for the error.

    Raises:
        ValueError: if an extension is too short for its own length, or reaches into the voxels.
    """
    order, at = "<" if start[:4] == struct.pack("<i", size) else ">", size + 4
    while start[size] and at + 8 <= len(start):
        (length,) = struct.unpack(f"{order}i", start[at : at + 4])
        if length == 0:
            return  # the rest is padding
        if not 8 <= length <= len(start) - at:
            wrong = f"its header is damaged: an extension of {length} bytes does not fit before the voxels"
            raise file_error(path, wrong, "copy or convert it again")
        at += length


def mended_quaternion(fields: nib.Nifti1Header) -> None:
    """Bring a quaternion that rounding made too long back to length one, and the sign beside it to 1 or -1."""
    bcd = np.array([fields[f"quatern_{k}"] for k in "bcd"], np.float64)
    length = float(np.linalg.norm(bcd))
    if 1 + LONGER < length < 1 + ROUNDING:
        fields["quatern_b"], fields["quatern_c"], fields["quatern_d"] = bcd / length
    if fields["pixdim"][0] not in (-1, 1):
        fields["pixdim"][0] = -1 if fields["pixdim"][0] < 0 else 1  # as the standard has it


def where_it_lies(fields: nib.Nifti1Header, path: PathLikeStr) -> tuple[np.ndarray, list[str]]:
    """Return the affine (4, 4) in millimetres and what a person should know of it; small flaws of `fields` are mended.

    Raises:
        ValueError: if the header does not say where the voxels lie, or says what no head can have.
    """
    qform, sform = int(fields["qform_code"]), int(fields["sform_code"])
    again = "convert it from the original again"
    if qform not in CODES or sform not in CODES:
        wrong = f"its header is damaged: the codes of qform and sform are {qform} and {sform}"
        raise file_error(path, wrong, again)
    mended_quaternion(fields)
    pixdim = np.abs(fields["pixdim"][1:4].astype(np.float64))
    if not sform:
        fields["pixdim"][1:4] = pixdim
    try:
        affine = np.array(fields.get_best_affine(), np.float64)
    except (ValueError, HeaderDataError) as error:
        raise file_error(path, "its header does not say where the voxels lie (qform is no rotation)", again) from error
    affine[:3] *= UNITS.get(int(fields["xyzt_units"]) & 7, 1.0)
    check_affine(affine, fields["dim"][1:4].tolist(), path)
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    notes = [] if qform or sform else [NOT_ORIENTED]
    claimed = pixdim * UNITS.get(int(fields["xyzt_units"]) & 7, 1.0)
    if not (np.isfinite(pixdim).all() and pixdim.all()):
        fields["pixdim"][1:4] = sides / UNITS.get(int(fields["xyzt_units"]) & 7, 1.0)
    elif np.abs(claimed / sides - 1).max() > 0.01:
        a, b = (" x ".join(f"{s:.4g}" for s in v) for v in (sides, claimed))
        notes.append(f"its header gives voxels of {a} mm in its affine, which counts, but of {b} mm in pixdim")
    return affine, notes


def check_affine(affine: np.ndarray, shape: list[int], path: PathLikeStr) -> None:
    """Check that an affine (4, 4) in millimetres is one that a scan of a head of so many voxels can have.

    Raises:
        ValueError: if it is singular or not finite, a voxel is too small or too large, or it lies too far away.
    """
    axes = affine[:3, :3]
    sides = np.linalg.norm(axes, axis=0)
    if not np.isfinite(affine).all() or not sides.all() or abs(np.linalg.det(axes / sides)) < 1e-3:
        wrong = "its header does not say where the voxels lie (the affine is singular)"
        raise file_error(path, wrong, "convert it from the original again")
    written = " x ".join(f"{s:.4g}" for s in sides)
    if sides.min() < SIDES[0] or sides.max() > SIDES[1]:
        wrong = f"its voxels measure {written} mm, outside {SIDES[0]:g} to {SIDES[1]:g} mm"
        raise file_error(path, wrong, "correct the voxel size or the unit in its header")
    if (sides * shape).max() > LONGEST:
        size = " x ".join(f"{s:.0f}" for s in sides * shape)
        wrong = f"its voxels fill {size} mm, more than {LONGEST:g} mm"
        raise file_error(path, wrong, "correct shape and voxel size in its header")
    if np.abs(affine[:3, 3]).max() > FARTHEST:
        wrong = f"its header puts it {np.abs(affine[:3, 3]).max() / 1000:.3g} m away from the origin"
        raise file_error(path, wrong, "convert it from the original again")
