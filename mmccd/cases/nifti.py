"""Reading and writing NIfTI volumes: checked hard on the way in, whole or not at all on the way out."""

import gzip
import math
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from os import PathLike
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip
from isal.igzip_lib import IsalError
from nibabel import orientations as ornt
from nibabel.volumeutils import apply_read_scaling

from mmccd.cases.grid import Grid
from mmccd.cases.header import MOST_MEMORY, SHORTEST, Header, check_extensions, header_size, parse_header
from mmccd.errors import file_error
from mmccd.files import replacing

PathLikeStr = str | PathLike[str]


BLOCK = 2**22  # bytes read, and voxels converted, at a time
PADDING = 512  # zero bytes that may follow the voxels, as some writers fill up a block
MOST_UNPACKED = 1032  # bytes that one byte of a gzip file can become
LARGEST, SMALLEST = 1e36, 1e-30  # absolute values with which float32 can still calculate


@contextmanager
def open_bytes(path: PathLikeStr) -> Iterator[tuple[BufferedIOBase, int]]:
    """Open a file, decompressed where its content (not its name) is gzip.

    Yields:
        The stream, and how many bytes can come out of it at most.

    Raises:
        ValueError: if there is no such file, or what is done inside finds it cut off, damaged or too large.
    """
    path = Path(path)
    if not path.exists():
        wrong = "there is no such file or folder" + " behind this link" * path.is_symlink()
        raise file_error(path, wrong, "check the path")
    if not path.is_file():
        raise file_error(path, f"it is {'a folder, not a file' if path.is_dir() else 'no regular file'}", "name a file")
    size = path.stat().st_size
    if not size:
        raise file_error(path, "the file is empty (0 bytes)", "copy or download it again")
    try:
        with open(path, "rb") as file:
            if file.peek(2)[:2] == b"\x1f\x8b":
                with igzip.IGzipFile(fileobj=file, mode="rb") as unpacked:  # isal: three times as fast as zlib
                    yield unpacked, size * MOST_UNPACKED
            else:
                yield file, size
    except PermissionError as error:
        raise file_error(path, "permission is denied", "allow reading it") from error
    except MemoryError as error:
        raise file_error(path, "it does not fit into memory", "crop or resample it, or close other programs") from error
    except (OSError, EOFError, OverflowError, zlib.error, IsalError) as error:  # type: ignore[not-a-type]  its stub
        if isinstance(error, OSError) and error.errno:
            wrong = f"reading it failed ({error.strerror})"
            raise file_error(path, wrong, "check the disk or the network, and try again") from error
        raise file_error(path, "its data is cut off or damaged", "copy or download it again") from error


def read_exactly(file: BufferedIOBase, n: int) -> bytes:
    """Return the next `n` bytes of a stream.

    Raises:
        EOFError: if it ends before.
    """
    data = file.read(n)
    if len(data) < n:
        raise EOFError
    return data


def read_header(file: BufferedIOBase, most: int, path: PathLikeStr) -> Header:
    """Read all that lies before the voxels, and check that these can follow and fit into memory.

    Args:
        file: stream at its start.
        most: bytes that can come out of it.
        path: of the file, for the error.

    Raises:
        ValueError: if it is no NIfTI image that we can read; see `header.parse_header`.
        EOFError: if the file is too short for what its header promises.
    """
    start = file.read(SHORTEST)
    size = header_size(start, path)
    start += read_exactly(file, size - len(start))
    header = parse_header(start, path)
    memory = header.n_bytes + 4 * math.prod(header.shape)
    if memory > MOST_MEMORY:
        claim = f"it claims {header.voxels} voxels, {memory / 2**30:.3g} GB in memory, where {MOST_MEMORY >> 30} GB are"
        raise file_error(path, f"{claim} allowed", "crop or resample it; if its header is wrong, copy it again")
    if header.offset + header.n_bytes > most:
        raise EOFError
    check_extensions(start + read_exactly(file, header.offset - len(start)), size, path)
    return header


def read_stored(path: PathLikeStr) -> tuple[np.ndarray, Header]:
    """Read the voxels of a .nii or .nii.gz file as they are stored, to its very end: gzip compares a checksum there.

    Returns:
        The array (i, j, k) without its scale, and the header.

    Raises:
        ValueError: if it is no NIfTI image, its header makes no sense, or its data are cut off, damaged or too long.
    """
    with open_bytes(path) as (file, most):
        header = read_header(file, most, path)
        raw = np.empty(header.n_bytes, np.uint8)  # the system gives memory only as it is filled
        at = 0
        while at < len(raw):
            n = file.readinto(raw.data[at : at + BLOCK])
            if not n:
                raise EOFError
            at += n
        tail = file.read(PADDING + 1)
        if len(tail) > PADDING or any(tail):
            wrong = f"more data follow than its {header.voxels} voxels of {header.dtype.name} take"
            raise file_error(path, wrong, "its header may be damaged; copy or convert it again")
        file.read(1)  # the checksum
    return raw.view(header.dtype).reshape(header.shape, order="F"), header


def scaled(array: np.ndarray, header: Header) -> np.ndarray:
    """Return stored voxels in the numbers that they stand for."""
    return array if header.scale is None else apply_read_scaling(array, *map(np.float64, header.scale))


def read_volume(path: PathLikeStr) -> tuple[np.ndarray, Grid]:
    """Read one volume as float32 (x, y, z) in LPS, and its grid; in memory it lies slice by slice, as in the file.

    Raises:
        ValueError: as `read_stored`, or as `check_values`.
    """
    return as_volume(*read_stored(path), path)


def as_volume(stored: np.ndarray, header: Header, path: PathLikeStr) -> tuple[np.ndarray, Grid]:
    """Return stored voxels (i, j, k) as float32 (x, y, z) in LPS, and their grid; see `read_volume`."""
    grid = Grid.of(header)
    stored = ornt.apply_orientation(stored, grid.turn)
    data = np.empty(stored.shape, np.float32, order="F")
    bad, tops = 0, [0.0]
    step = max(1, BLOCK // math.prod(stored.shape[:2]))
    for k in range(0, stored.shape[2], step):  # a few slices at a time, to save memory
        with np.errstate(all="ignore"):
            part = scaled(stored[:, :, k : k + step], header)
            data[:, :, k : k + step] = part
        if part.dtype.kind == "f":
            sizes = np.abs(part)
            bad += int(np.count_nonzero(~np.isfinite(sizes)))
            tops.append(float(sizes.max()))
    check_values(bad, max(tops), path)
    return data, grid


def check_values(bad: int, top: float, path: PathLikeStr) -> None:
    """Check the numbers of a volume.

    Args:
        bad: voxels that are NaN or infinite.
        top: largest absolute value; 0 where only whole numbers can be.
        path: of the file, for the error.

    Raises:
        ValueError: if a voxel is NaN or infinite, or the values are beyond what float32 can calculate with.
    """
    if bad:
        todo = "set them to 0 (fslmaths IN -nan OUT, or NumPy's nan_to_num)"
        raise file_error(path, f"{bad} of its voxels are NaN or infinite", todo)
    if top > LARGEST:
        wrong = f"its values, up to {top:g}, are too large for float32"
        raise file_error(path, wrong, f"divide them by {top / 1e3:.0e}")
    if 0 < top < SMALLEST:
        wrong = f"its values, up to {top:g}, are too small for float32"
        raise file_error(path, wrong, f"multiply them by {1e3 / top:.0e}")


def read_labels(path: PathLikeStr) -> tuple[np.ndarray, Grid]:
    """Read a segmentation or mask as uint8 (x, y, z) in LPS, and its grid.

    Raises:
        ValueError: as `read_volume`, or if the voxels are not whole numbers from 0 to 255.
    """
    stored, header = read_stored(path)
    if header.dtype == np.uint8 and header.scale is None:  # as most are stored: nothing to check
        grid = Grid.of(header)
        return np.array(ornt.apply_orientation(stored, grid.turn), order="F"), grid
    data, grid = as_volume(stored, header, path)
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


def nifti_image(array: np.ndarray, grid: Grid) -> nib.Nifti1Image:
    """Return an image of an array (i, j, k) whose header says where it lies, in the words of the file it came from."""
    if not grid.geometry:
        image = grid.image(array, grid.affine)
        image.header["xyzt_units"] = 2  # millimetres
        return image
    header = grid.image.header_class()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)  # which also resets what the geometry sets
    for k, value in grid.geometry.items():
        header[k] = value
    return grid.image(array, None, header)


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
    image = nifti_image(grid.from_lps(as_stored(array)), grid)
    try:
        with replacing(path) as file:
            if path.suffix == ".gz":
                with gzip.GzipFile("", "wb", 1, file, 0) as zipped:  # no name and no date: the same bytes every time
                    image.to_stream(zipped)
            else:
                image.to_stream(file)
    except OSError as error:
        raise ValueError(f"Cannot write {path}: {error.strerror or error}; choose another place.") from error
