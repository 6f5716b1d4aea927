"""The two files of a case in a store, its images and its masks, each slice of which is packed by itself.

They are shards of zarr with a chunk a slice, and zarr reads them, too. It needs milliseconds of a core for each slice,
though, several times what unpacking and checking it take: so the bytes are fetched here, those of a batch together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmccd.cases.records import ARRAYS, Place, Recipe, Record, open_files, read_json, slice_checks

Packed = bytes | Exception  # a slice as it lies in the file, or why it cannot be fetched


class Shard(NamedTuple):
    """A file of slices."""

    path: str
    spans: list[list[int]]  # first byte of each slice, and how many
    shape: tuple[int, ...]  # of a slice
    dtype: np.dtype[Any]


class CaseFiles(NamedTuple):
    """Where the slices of a case lie, and their checksums; a store of format 1 has none."""

    images: Shard
    masks: Shard
    checks: list[str] | None


def has_layout(found: dict[str, Any], shape: Sequence[int], dtype: str) -> bool:
    """Tell whether the metadata of an array are those that `prepare.write_case` writes: one shard, a chunk a slice."""
    grid = {"name": "regular", "configuration": {"chunk_shape": list(shape)}}
    wanted = {"zarr_format": 3, "node_type": "array", "shape": list(shape), "data_type": dtype, "chunk_grid": grid}
    wanted |= {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}}}  # where the shard lies
    if any(found.get(k) != v for k, v in wanted.items()) or found.get("storage_transformers"):
        return False
    try:
        (outer,) = found["codecs"]
        inner = outer["configuration"]
        coded = [c for k in ("codecs", "index_codecs") for c in inner[k]]
        names = [outer["name"], *(c["name"] for c in coded)]
        big = any(c.get("configuration", {}).get("endian", "little") != "little" for c in coded)
        if big or inner.get("index_location", "end") != "end":
            return False
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return names == ["sharding_indexed", "bytes", "zstd", "bytes", "crc32c"] and inner.get("chunk_shape") == [
        1,
        *shape[1:],
    ]


def claimed_size(frame: bytes) -> int | None:
    """Return how many bytes the beginning of a zstd frame (RFC 8878, 3.1.1) says that it holds; None if it does not."""
    if len(frame) < 18 or frame[:4] != b"\x28\xb5\x2f\xfd":
        return None
    flag, single, dictionary = frame[4] >> 6, frame[4] >> 5 & 1, (0, 1, 2, 4)[frame[4] & 3]
    start, length = 6 - single + dictionary, (single, 2, 4, 8)[flag]
    return int.from_bytes(frame[start : start + length], "little") + 256 * (length == 2) if length else None


def open_case(place: Place, id: str, record: Record, recipe: Recipe) -> CaseFiles:
    """Find the slices of a case, once it is certain that its files are what they have to be; reads no pixel.

    Args:
        place: of the store.
        id: of the case.
        record: of the case, with at least one slice.
        recipe: of the store.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if an array has another shape, type or coding than the record and the recipe say, or is cut off.
    """
    (files, root), n, size = open_files(place), len(record["rows"]), recipe["size"]
    found: list[Shard] = []
    for (name, dtype), channels in zip(ARRAYS.items(), (len(recipe["modalities"]), 2)):
        path = f"{root}/{id}/{name}"
        if not has_layout(read_json(files, f"{path}/zarr.json"), (n, channels, size, size), dtype):
            raise ValueError(f"{path} is not as its record says")
        info = files.info(path := f"{path}/c/0/0/0/0")
        # slices; then first byte and length of each, and a checksum of these, which those of the slices spare us
        end = int(info["size"] or 0) - 16 * n - 4
        if info["type"] != "file" or end < 0:
            raise ValueError(f"{path} is cut off")
        index: Any = files.cat_file(path, end, end + 16 * n)
        spans = np.frombuffer(index, "<u8").reshape(n, 2).tolist()
        if any(start + length > end for start, length in spans):
            raise ValueError(f"{path} is cut off or damaged")
        found.append(Shard(path, spans, (channels, size, size), np.dtype(dtype).newbyteorder("<")))
    images, masks = found
    return CaseFiles(images, masks, record.get("checks"))


def fetch(place: Place, wanted: Iterable[tuple[CaseFiles, int]]) -> list[tuple[Packed, Packed]]:
    """Fetch slices as they are packed; from a distant store many at a time.

    Args:
        place: of the store.
        wanted: files of the case, and number of the slice in it.

    Returns:
        Image and mask of each.
    """
    files, _ = open_files(place)
    spans = [(shard.path, *shard.spans[k]) for case, k in wanted for shard in (case.images, case.masks)]
    starts, ends = [start for _, start, _ in spans], [start + length for _, start, length in spans]
    packed: list[Any] = files.cat_ranges([path for path, _, _ in spans], starts, ends, on_error="return")
    return list(zip(packed[::2], packed[1::2]))


def unpack(shard: Shard, packed: Packed) -> np.ndarray:
    """Unpack an image or a mask that `fetch` returned.

    Raises:
        Exception: if it could not be fetched, or, whatever zstd says, unpacked.
        ValueError: if it is of another size, which shows before it is unpacked.
    """
    from numcodecs.zstd import Zstd

    if isinstance(packed, Exception):
        raise packed
    if claimed_size(packed[:18]) != math.prod(shard.shape) * shard.dtype.itemsize:
        raise ValueError(f"{shard.path} holds a slice of another size")
    out = np.empty(shard.shape, shard.dtype)
    Zstd().decode(packed, out)
    return out


def unpack_slice(case: CaseFiles, k: int, packed: tuple[Packed, Packed]) -> tuple[np.ndarray, np.ndarray]:
    """Unpack a slice that `fetch` returned, and compare it with its checksum.

    Returns:
        Image (m size size) float16 with all modalities of the store, and mask (2 size size) uint8.

    Raises:
        Exception: if it could not be fetched or unpacked.
        ValueError: if it has another size or checksum.
    """
    image, mask = unpack(case.images, packed[0]), unpack(case.masks, packed[1])
    if case.checks and slice_checks(image[None], mask[None]) != [case.checks[k]]:
        raise ValueError("a slice has another checksum")
    return image, mask
