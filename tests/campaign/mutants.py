"""Mutated NIfTI files: headers changed field by field, flipped bits, damaged gzip, tails, claims, odd but good ones."""

from __future__ import annotations

import gzip
import math
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from reading import FIELDS, field_place
from toy_cases import AFFINE, volumes

INF, NAN = math.inf, math.nan
WHOLE = [0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 64, 255, 256, 348, 352, 512, 700, 1200, 2000, 30000, 32767]
WHOLE += [-n for n in WHOLE[1:]] + [2**31 - 1, -(2**31), 2**62, 2**63 - 1, -(2**63)]
REAL = [0.0, 1.0, 0.5, 2.0, 10.0, 1000.0, 0.001, 351.5, 352.0, 368.0, 1e6, 1e20, 1e38, 1e-20, 1e-38, 1e-45, 3.4e38]
REAL += [-x for x in REAL[1:]] + [INF, -INF, NAN]
SIZES = {"h": 16, "i": 32, "q": 64}


@dataclass(frozen=True)
class Mutant:
    """A file to be read.

    Attributes:
        what: How it was made, in words.
        content: Its bytes.
        good: It breaks no rule, and has to be read.
        zipped: Does its name end in .gz?
        memory: Megabytes that reading it may take; a tenth of a gigabyte for a file of a few kilobytes.
    """

    what: str
    content: bytes
    good: bool = False
    zipped: bool = True
    memory: int = 256


def nifti(
    values: np.ndarray,
    affine: np.ndarray = AFFINE,
    order: str = "<",
    nifti2: bool = False,
    gap: int = 0,
    **fields: object,
) -> bytes:
    """A NIfTI file, made from the standard alone.

    Args:
        values: (i, j, k), of the type that is stored.
        affine: (4, 4), millimetres.
        order: "<" or ">".
        nifti2: NIfTI-2 instead of NIfTI-1.
        gap: Bytes between header and voxels beyond the usual.
        **fields: Of `reading.FIELDS`, with other values than usual.
    """
    codes = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768, "i8": 1024, "u8": 1280}
    size = 540 if nifti2 else 348
    head = bytearray(size + 4 + gap)
    struct.pack_into(f"{order}i", head, 0, size)
    magic = b"n+2\0\r\n\x1a\n" if nifti2 else b"n+1\0"
    head[4 if nifti2 else 344 : (12 if nifti2 else 348)] = magic
    dims = [values.ndim, *values.shape] + [1] * (7 - values.ndim)
    usual = {
        "dim": dims,
        "datatype": codes[values.dtype.str[1:]],
        "bitpix": 8 * values.dtype.itemsize,
        "pixdim": [1, *np.linalg.norm(affine[:3, :3], axis=0), 0, 0, 0, 0],
        "vox_offset": len(head),
        "scl_slope": 1,
        "scl_inter": 0,
        "xyzt_units": 2,
        "qform_code": 0,
        "sform_code": 1,
        "quatern": [0, 0, 0],
        "qoffset": [0, 0, 0],
        "srow": np.ravel(affine[:3]),
    }
    for name, value in (usual | fields).items():
        form, at = field_place(name, nifti2)
        struct.pack_into(order + form, head, at, *np.ravel(value).tolist())
    return bytes(head) + values.astype(values.dtype.newbyteorder(order)).tobytes(order="F")


def image() -> np.ndarray:
    """The toy scan, (24, 28, 10) float32, whole numbers."""
    return volumes()[0]


def bases() -> dict[str, bytes]:
    """Good files to be damaged: several types, byte orders and headers."""
    a = image()
    return {
        "int16": nifti(a.astype("i2")),
        "float32": nifti(a),
        "scaled": nifti(a.astype("i2"), scl_slope=0.5, scl_inter=3),
        "NIfTI-2": nifti(a.astype("i2"), nifti2=True),
        "big-endian": nifti(a.astype("i2"), order=">"),
        "by quaternion": nifti(a.astype("i2"), sform_code=0, qform_code=1, quatern=[0, 0, 1], qoffset=[0, 27, 0]),
    }


def packed(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


def flipped(content: bytes, rng: random.Random, n: int, end: int | None = None) -> bytes:
    """The bytes with `n` flipped bits before `end`."""
    changed = bytearray(content)
    for _ in range(n):
        changed[rng.randrange(min(end or len(changed), len(changed)))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def put(content: bytes, name: str, values: list, what: str) -> bytes:
    """The file with other values in a field; a number that the field cannot hold is cut to its size."""
    nifti2, order = what == "NIfTI-2", ">" if what == "big-endian" else "<"
    form, at = field_place(name, nifti2)
    kind, changed = form[-1], bytearray(content)
    if kind in SIZES:
        half = 1 << (SIZES[kind] - 1)
        values = [(int(v) + half) % (2 * half) - half for v in values]
    elif kind == "B":
        values = [int(v) % 256 for v in values]
    elif kind == "f":
        values = [
            v if not math.isfinite(v) or abs(v) < 3.4e38 else math.copysign(3.4e38, v) for v in map(float, values)
        ]
    struct.pack_into(order + form, changed, at, *values)
    return bytes(changed)


def header_field(rng: random.Random) -> Mutant:
    """One field of a header, or two, with strange values."""
    base, content = rng.choice(list(bases().items()))
    said = []
    for name in rng.sample(list(FIELDS), rng.choice([1, 1, 1, 2])):
        form, at = field_place(name, base == "NIfTI-2")
        order = ">" if base == "big-endian" else "<"
        now = list(struct.unpack_from(order + form, content, at))
        pool = REAL if form[-1] in "fd" else WHOLE
        for k in rng.sample(range(len(now)), rng.choice([1, 1, 1, len(now)])):
            now[k] = rng.choice(pool)
        content = put(content, name, now, base)
        said.append(f"{name} = {now if len(now) > 1 else now[0]}")
    zipped = rng.random() < 0.5
    return Mutant(f"{base}, {', '.join(said)}", packed(content) if zipped else content, zipped=zipped)


def header_bits(rng: random.Random) -> Mutant:
    """Flipped bits in a header."""
    base, content = rng.choice(list(bases().items()))
    n, zipped = rng.choice([1, 1, 2, 3, 8]), rng.random() < 0.5
    content = flipped(content, rng, n, 544 if base == "NIfTI-2" else 352)
    return Mutant(f"{base}, {n} bits of the header", packed(content) if zipped else content, zipped=zipped)


def any_bits(rng: random.Random) -> Mutant:
    """Flipped bits anywhere in a file that is not compressed: other voxels are to be read as they are."""
    base, content = rng.choice(list(bases().items()))
    return Mutant(f"{base}, 4 bits anywhere", flipped(content, rng, 4), zipped=False)


def packed_bits(rng: random.Random) -> Mutant:
    """Flipped bits in a compressed file."""
    base, content = rng.choice(list(bases().items()))
    n = rng.choice([1, 1, 2, 4, 16])
    return Mutant(f"{base}, {n} bits of the gzip file", flipped(packed(content), rng, n))


def cut(rng: random.Random) -> Mutant:
    """A file that is cut off, or lacks a piece in the middle."""
    base, content = rng.choice(list(bases().items()))
    zipped = rng.random() < 0.6
    content = packed(content) if zipped else content
    at = rng.choice([rng.randrange(len(content)), len(content) - rng.randrange(1, 12), rng.randrange(600)])
    more = content[at + rng.randrange(1, 2000) :] if rng.random() < 0.3 else b""
    return Mutant(
        f"{base}, {'gzip ' * zipped}cut at {at}{', a piece' * bool(more)}", content[:at] + more, zipped=zipped
    )


def tail(rng: random.Random) -> Mutant:
    """Something after the end of the voxels, or of the gzip file."""
    base, content = rng.choice(list(bases().items()))
    rest = bytes([rng.choice([0, 1, 255])]) * rng.choice([1, 8, 511, 512, 513, 4096, 10**6])
    what = f"{base}, {len(rest)} bytes of {rest[0]} after"
    match rng.randrange(4):
        case 0:
            return Mutant(f"{what} the voxels", content + rest, zipped=False)
        case 1:
            return Mutant(f"{what} the voxels, packed", packed(content + rest))
        case 2:
            return Mutant(f"{what} the gzip file", packed(content) + rest)
        case _:
            return Mutant(f"{what}, packed, after the gzip file", packed(content) + packed(rest))


def claim(rng: random.Random) -> Mutant:
    """A small file whose header claims a large one."""
    base, content = rng.choice(list(bases().items()))
    most = 10**6 if base == "NIfTI-2" else 32767
    n = rng.choice([3, 3, 3, 4, 7])
    dims = [n, *(rng.choice([2, 28, 700, 1200, 2000, most]) for _ in range(7))]
    zipped = rng.random() < 0.7
    content = put(content, "dim", dims, base)
    return Mutant(f"{base}, dim {dims}", packed(content) if zipped else content, zipped=zipped)


def magic(rng: random.Random) -> Mutant:
    """Another beginning: sizes of headers, magic words, extensions, other formats."""
    base, content = rng.choice(list(bases().items()))
    changed = bytearray(content)
    match rng.randrange(4):
        case 0:
            struct.pack_into("<i", changed, 0, rng.choice([0, 347, 349, 540, 348, -1, 2**31 - 1, 1543569408]))
        case 1:
            changed[344:348] = rng.choice([b"ni1\0", b"n+2\0", b"n+1\n", b"\0\0\0\0", b"xxxx"])
        case 2:
            start = rng.choice([b"PK\3\4", b"BZh9", b"NRRD0004", b"\x1f\x8b\x08\0", b"\x89HDF", b"\0" * 348])
            changed[: len(start)] = start
        case _:
            size, code = rng.choice([0, 8, 15, 16, 32, -16, 2**30, 2**31 - 1]), rng.choice([0, 2, 4, 6])
            head = 544 if base == "NIfTI-2" else 352
            order = ">" if base == "big-endian" else "<"
            changed[head - 4] = 1
            changed[head:head] = struct.pack(f"{order}ii", size, code) + bytes(24)
            changed = bytearray(put(bytes(changed), "vox_offset", [head + 32], base))
    zipped = rng.random() < 0.5
    return Mutant(f"{base}, another beginning", packed(bytes(changed)) if zipped else bytes(changed), zipped=zipped)


def odd(rng: random.Random) -> Mutant:
    """A file that is odd and right: it has to be read, and read right."""
    a, affine = image(), AFFINE.copy()
    axes, signs = rng.sample(range(3), 3), [rng.choice([1, -1]) for _ in range(3)]
    turned = np.transpose(a, axes)[tuple(slice(None, None, s) for s in signs)]
    way = np.zeros((4, 4))
    for new, (old, sign) in enumerate(zip(axes, signs)):
        way[old, new] = sign
        way[old, 3] = 0 if sign > 0 else a.shape[old] - 1
    way[3, 3] = 1
    affine = affine @ way
    angle = rng.choice([0, 0, 0.2, 0.4])
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    affine = tilt @ affine
    slope, inter = rng.choice([(1, 0), (0, 0), (NAN, NAN), (0.25, 0), (2, 7), (-1, 0)])
    kind = rng.choice(["i2", "u2", "i4", "u4", "f4", "f8", "i8"])
    fields = {"scl_slope": slope, "scl_inter": inter, "xyzt_units": rng.choice([0, 2, 10])}
    unit = rng.choice([1.0, 1.0, 1000.0])
    if unit != 1:
        fields |= {"xyzt_units": 1, "srow": np.ravel(affine[:3]) / unit}
        fields |= {"pixdim": [1, *np.linalg.norm(affine[:3, :3], axis=0) / unit, 0, 0, 0, 0]}
    if rng.random() < 0.2:
        fields |= {"dim": [4, *turned.shape, 1, 1, 1, 1]}
    how = {"order": rng.choice("<>"), "nifti2": rng.random() < 0.3, "gap": rng.choice([0, 16, 160])}
    content, zipped = nifti(turned.astype(kind), affine, **how, **fields), rng.random() < 0.6
    what = f"odd and right: {kind}, axes {axes}, signs {signs}, angle {angle}, {how}, scale {slope, inter}, unit {unit}"
    if zipped and rng.random() < 0.3:
        return Mutant(what + ", two members", packed(content[:3000]) + packed(content[3000:]), True)
    wrong_name = rng.random() < 0.1
    return Mutant(what, packed(content) if zipped else content, True, zipped != wrong_name)


def bombs() -> Iterator[Mutant]:
    """Small files that unpack to gigabytes."""
    content = bases()["int16"]
    block = packed(bytes(64 * 2**20))
    yield Mutant("2 GB of zeros after the voxels, in members", packed(content) + block * 32)
    yield Mutant("2 GB of zeros that are no voxels of float32", packed(bases()["float32"]) + block * 32)
    huge = put(content, "dim", [3, 2000, 2000, 2000, 1, 1, 1, 1], "int16")
    yield Mutant("2000 cubed claimed, 2 GB there", packed(huge) + block * 32)
    deep = put(content, "dim", [3, 1200, 1200, 1200, 1, 1, 1, 1], "int16")
    yield Mutant("1200 cubed claimed in 15 KB", packed(deep))


KINDS: dict[Callable[[random.Random], Mutant], int] = {
    header_field: 1000,
    header_bits: 300,
    any_bits: 100,
    packed_bits: 300,
    cut: 250,
    tail: 100,
    claim: 150,
    magic: 150,
    odd: 250,
}
"""How many of each a campaign tries."""
