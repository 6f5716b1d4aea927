"""A second reader of NIfTI, from the standard alone: it shares no line with `mmccd.cases` and none with nibabel."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
FIELDS = {  # name: offset and format in NIfTI-1, in NIfTI-2
    "dim": ("8h", 40, "8q", 16),
    "datatype": ("h", 70, "h", 12),
    "bitpix": ("h", 72, "h", 14),
    "pixdim": ("8f", 76, "8d", 104),
    "vox_offset": ("f", 108, "q", 168),
    "scl_slope": ("f", 112, "d", 176),
    "scl_inter": ("f", 116, "d", 184),
    "xyzt_units": ("B", 123, "i", 500),
    "qform_code": ("h", 252, "i", 344),
    "sform_code": ("h", 254, "i", 348),
    "quatern": ("3f", 256, "3d", 352),
    "qoffset": ("3f", 268, "3d", 376),
    "srow": ("12f", 280, "12d", 400),
}


class UnreadableError(ValueError):
    """This reader, too, can make nothing of the file."""


@dataclass(frozen=True)
class Reading:
    """What a file says: values (i, j, k) float64, and the affine (4, 4) in millimetres, None if it gives none."""

    values: np.ndarray
    affine: np.ndarray | None


def unpacked(content: bytes) -> bytes:
    """All members of a gzip file; what is not gzip is returned as it is.

    Raises:
        UnreadableError: It is damaged or cut off.
    """
    if not content.startswith(b"\x1f\x8b"):
        return content
    parts = []
    while content.startswith(b"\x1f\x8b"):
        stream = zlib.decompressobj(31)
        try:
            flags = bytes([content[3] & 0x1F]) if len(content) > 3 else b""  # reserved bits say nothing of the data
            parts.append(stream.decompress(content[:3] + flags + content[4:]))
        except zlib.error as error:
            raise UnreadableError(str(error)) from error
        if not stream.eof:
            raise UnreadableError("cut off")
        content = stream.unused_data
    return b"".join(parts)


def field_place(name: str, nifti2: bool) -> tuple[str, int]:
    """Format and offset of a header field."""
    one, at, two, at2 = FIELDS[name]
    return (two, at2) if nifti2 else (one, at)


def read(content: bytes) -> Reading:
    """Read a .nii or .nii.gz file.

    Raises:
        UnreadableError: There is no whole image in it.
    """
    raw = unpacked(content)
    known = {struct.pack(f"{o}i", n): (o, n == 540) for o in "<>" for n in (348, 540)}
    if raw[:4] not in known or len(raw) < 348:
        raise UnreadableError("no header")
    order, nifti2 = known[raw[:4]]

    def get(name: str) -> tuple:
        form, at = field_place(name, nifti2)
        return struct.unpack_from(order + form, raw, at)

    try:
        shape = [int(n) for n in get("dim")[1 : 1 + min(max(get("dim")[0], 0), 7)]]
        dtype = np.dtype(TYPES[get("datatype")[0]]).newbyteorder(order)
        offset, n = int(get("vox_offset")[0]), int(np.prod([float(s) for s in shape]))
        if len(shape) < 3 or min(shape) < 1 or offset < 0 or offset + n * dtype.itemsize > len(raw):
            raise UnreadableError("the voxels are not there")
        values = np.frombuffer(raw, dtype, n, offset).astype(np.float64)
    except (KeyError, ValueError, OverflowError, struct.error) as error:
        raise UnreadableError(str(error)) from error
    slope, inter = get("scl_slope")[0], get("scl_inter")[0]
    if slope != 0 and np.isfinite(slope):
        values = values * slope + inter
    return Reading(values.reshape([s for i, s in enumerate(shape) if i < 3 or s > 1], order="F"), _affine(get))


def _affine(get) -> np.ndarray | None:
    unit = {1: 1000.0, 3: 0.001}.get(get("xyzt_units")[0] & 7, 1.0)
    affine = np.eye(4)
    with np.errstate(all="ignore"):
        if get("sform_code")[0] > 0:
            affine[:3] = np.reshape(get("srow"), (3, 4))
        elif get("qform_code")[0] > 0:
            b, c, d = np.float64(get("quatern"))
            a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
            turn = [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
            sides = np.abs(np.float64(get("pixdim")[1:4])) * [1, 1, -1 if get("pixdim")[0] < 0 else 1]
            affine[:3, :3], affine[:3, 3] = np.array(turn) * sides, get("qoffset")
        else:
            return None
        affine[:3] *= unit
    return affine


def difference(reading: Reading, values: np.ndarray, affine: np.ndarray) -> str:
    """What is wrong with how a case has read a file, in words; empty where nothing is.

    Every voxel of the file must be found, by its place in millimetres, in the volume that the case holds, with the same
    value, whatever axes were turned on the way.

    Args:
        reading: of the file.
        values: (x, y, z), of the case.
        affine: (4, 4), of the case.
    """
    file = reading.values
    if file.ndim != 3:
        return f"a volume of shape {values.shape} was taken from {file.shape}"
    if reading.affine is None:
        return "" if np.allclose(np.sort(file, axis=None), np.sort(values, axis=None), rtol=1e-5) else "other values"
    way = np.linalg.solve(affine, reading.affine)
    turn = np.rint(way[:3, :3]).astype(int)
    if np.abs(way[:3, :3] - turn).max() > 0.02 or (np.abs(turn).sum(0) != 1).any() or (np.abs(turn).sum(1) != 1).any():
        return "other millimetres"
    axes = np.argmax(np.abs(turn), axis=1)
    turned = np.transpose(file, axes)
    turned = turned[tuple(slice(None, None, int(turn[i, a])) for i, a in enumerate(axes))]
    first = way[:3, 3] + np.where(turn[range(3), axes] < 0, -(np.array(turned.shape) - 1.0), 0.0)
    if turned.shape != values.shape or np.abs(first).max() > 0.1:
        return "the voxels lie elsewhere"
    towards = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    wanted = np.array([-1, -1, 1])
    clear = np.abs(np.diag(towards)) > 0.8
    if (np.diag(towards)[clear] * wanted[clear] < 0).any():
        return "the axes do not lead to the left, to the back and up"
    return "" if np.allclose(turned, values, rtol=1e-5, atol=1e-30) else "other values"
