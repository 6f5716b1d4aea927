"""Files that are read: NIfTI, weights, stores. Each is read in a fork, with a limit of memory and of time."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import pickle
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mutants
import numpy as np
from forks import Outcome, in_fork
from ledger import Ledger
from reading import UnreadableError, difference, read
from toy_cases import AFFINE, volumes, write_case

READ, REFUSED, SAME, AS_WRITTEN = "read right", "refused in one sentence", "the same result", "taken as it is written"
SECONDS = 30  # that reading a small file may take on a machine that is busy
NONSENSE: list[Any] = [None, True, False, 0, -1, 0.5, -0.5, 1e9, 2**70, 1e308, math.nan, math.inf, -math.inf, "", "x"]
NONSENSE += ["0.5", "../../etc", "a\0b", "é" * 300, [], {}, [0.5], [[1]], [10**4] * 4, [1] * 300, {"a": 1}, 4096, 10**6]


class Trap:
    """Unpickling it leaves a file: code from a data file was run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.mark}'",)


def sentence_fault(text: str) -> str:
    """What keeps the text of an error from being one plain sentence."""
    right = text.count("\n") == 0 and 20 < len(text) < 600
    words = ("Traceback", "nexpected", "Error:", "Exception", "object at 0x")
    return "" if right and not any(w in text for w in words) else f"no plain sentence: {text!r}"


def refusal(work: Callable[[], Any]) -> dict[str, Any]:
    """What some work returned, as `{"value": ...}`, or the words of its ValueError, as `{"refused": ...}`."""
    try:
        return {"value": work()}
    except ValueError as error:
        return {"refused": str(error)}


def judged(found: Outcome, memory: int, check: Callable[[Any], str]) -> tuple[str, str]:
    """Outcome and fault of a fork that did `refusal`; `check` says what is wrong with a value, or how it is right."""
    if found.hung:
        return "", f"hung for {found.seconds:.0f} s"
    if found.value is None:
        return "", f"ended with code {found.code}: {found.err.strip()[-300:]}"
    if found.peak_mb > memory:
        return "", f"took {found.peak_mb:.0f} MB"
    if found.err.strip():
        return "", f"wrote to the terminal: {found.err.strip()[-200:]}"
    if "refused" in found.value:
        text = found.value["refused"]
        fault = "ran out of memory" if "does not fit into memory" in text else sentence_fault(text)
        return REFUSED, fault
    fault = check(found.value["value"])
    return READ, fault


# NIfTI


def read_scan(path: Path, content: bytes) -> str:
    """Read a scan as a case, and return in which way that differs from an independent reading."""
    from mmccd.cases.case import Case

    case = Case.load(path)
    try:
        reading = read(content)
    except UnreadableError as error:
        return f"read what cannot be read ({error})"
    with np.errstate(all="ignore"):
        return difference(reading, case.volumes["flair"], case.affine)


def nifti_files(work: Path, rng: random.Random, scale: float) -> Ledger:
    """Mutated scans: read right, or refused in one sentence, in little memory."""
    ledger = Ledger("NIfTI files")

    def attack(mutant: mutants.Mutant) -> None:
        path = work / ("x_flair.nii.gz" if mutant.zipped else "x_flair.nii")
        path.write_bytes(mutant.content)
        found = in_fork(lambda: refusal(lambda: read_scan(path, mutant.content)), SECONDS, memory=3072)
        outcome, fault = judged(found, mutant.memory, str)
        if mutant.good and outcome == REFUSED:
            fault = f"a good file was refused: {found.value['refused']}"
        if outcome == REFUSED and not fault and path.name not in found.value["refused"]:
            fault = f"the file is not named: {found.value['refused']}"
        ledger.note(mutant.what, outcome, fault)
        path.unlink()

    for make, n in mutants.KINDS.items():
        for _ in range(math.ceil(n * scale)):
            attack(make(rng))
    for mutant in mutants.bombs():
        attack(mutant)
    return ledger


def label_files(work: Path, rng: random.Random, scale: float) -> Ledger:
    """Mutated segmentations beside a good scan."""
    ledger = Ledger("segmentations")
    case = write_case(work, "a")
    seg, good = case / "a_seg.nii.gz", volumes()[1]

    def check() -> str:
        from mmccd.cases.case import Case

        found = Case.load(case)
        try:
            reading = read(seg.read_bytes())
        except UnreadableError as error:
            return f"read what cannot be read ({error})"
        values = reading.values if reading.values.ndim == 3 else reading.values[..., 0]
        return difference(type(reading)(np.rint(values) > 0, reading.affine), found.lesion, found.affine)

    for _ in range(math.ceil(300 * scale)):
        plain = mutants.nifti(good.astype(rng.choice(["u1", "i2", "f4"])), AFFINE)
        n, header = rng.choice([1, 2, 4]), rng.random() < 0.6
        content = mutants.flipped(plain, rng, n, 352 if header else None)
        if not header and rng.random() < 0.7:
            content = mutants.flipped(mutants.packed(plain), rng, n)
        seg.write_bytes(content)
        outcome, fault = judged(in_fork(lambda: refusal(check), SECONDS, memory=3072), 256, str)
        ledger.note(f"{n} bits {'of the header' * header}", outcome, fault)
    return ledger


# weights


def tensors_with_hash(about: dict[str, Any], content: bytes) -> tuple[bytes, bytes]:
    """Both files, so that they belong together."""
    return json.dumps(about | {"sha256": hashlib.sha256(content).hexdigest()}).encode(), content


def strange_tensors(tensors: bytes, mark: Path) -> Iterator[tuple[str, bytes]]:
    """Files of tensors that are none, or that claim what is not there."""

    def head(text: str, body: bytes = b"\0" * 4) -> bytes:
        return struct.pack("<Q", len(text)) + text.encode() + body

    one = '{"x":{"dtype":"F32","shape":[%s],"data_offsets":[0,%d]}}'
    yield "empty", b""
    yield "cut in half", tensors[: len(tensors) // 2]
    yield "a header of 2^63 bytes", struct.pack("<Q", 2**63) + tensors[8:]
    yield "a header of 100 MB", struct.pack("<Q", 10**8) + tensors[8:]
    yield "a tensor of 10^18 numbers", head(one % ("1000000,1000000,1000000", 4))
    yield "a tensor of 2^64 numbers", head(one % (str(2**64 - 1), 4))
    yield "a tensor of -1 numbers", head(one % ("-1", 4))
    yield "a tensor of 0 x 10^12 numbers", head(one % ("0,1000000000000", 0), b"")
    yield "a pickle", pickle.dumps(Trap(mark))


def strange_configs(about: dict[str, Any], rng: random.Random, n: int) -> Iterator[tuple[str, bytes]]:
    """Contents of config.json with nonsense in one place."""

    def places(node: Any, path: tuple = ()) -> Iterator[tuple]:
        for key in node if isinstance(node, dict) else range(len(node)):
            yield (*path, key)
            if isinstance(node[key], dict | list):
                yield from places(node[key], (*path, key))

    all_places = list(places(about))
    for _ in range(n):
        place, value, changed = rng.choice(all_places), rng.choice(NONSENSE), copy.deepcopy(about)
        node = changed
        for key in place[:-1]:
            node = node[key]
        if gone := rng.random() < 0.1:
            del node[place[-1]]
        else:
            node[place[-1]] = value
        yield f"{place} {'gone' if gone else f'= {value!r:.40}'}", json.dumps(changed).encode()
    text = json.dumps(about).encode()
    for _ in range(n // 4):
        yield "config.json, 2 bits", mutants.flipped(text, rng, 2)
    yield "config.json, 200,000 brackets", b"[" * 200_000 + b"]" * 200_000
    yield "config.json, a list", b"[]"
    yield "config.json, a number of 5,000 digits", text[:-1] + b', "x": ' + b"9" * 5000 + b"}"


def weights_files(work: Path, rng: random.Random, scale: float) -> Ledger:
    """Tampered detectors: refused, or they give what their files say; no code is run."""
    from mmccd.detector import load_detector

    ledger, mark, folder = Ledger("weights"), work / "mark", work / "d"
    path = write_case(work, "a")
    for name in ("threshold-flair", "cycle-flair-t2", "ae-flair"):
        load_detector(name).save_pretrained(work / name)
        about, tensors = json.loads((work / name / "config.json").read_text()), None
        tensors = (work / name / "model.safetensors").read_bytes()
        attacks = [(w, c, tensors) for w, c in strange_configs(about, rng, math.ceil(100 * scale))]
        attacks += [(w, *tensors_with_hash(about, c)) for w, c in strange_tensors(tensors, mark)]
        for _ in range(math.ceil(40 * scale)):
            attacks.append(("3 bits of the tensors", json.dumps(about).encode(), mutants.flipped(tensors, rng, 3)))
        usual = in_fork(lambda n=name: map_of(work / n, path), SECONDS).value
        for what, config, content in attacks:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (folder / "config.json").write_bytes(config)
            (folder / "model.safetensors").write_bytes(content)
            found = in_fork(lambda: refusal(lambda: map_of(folder, path)), SECONDS, memory=3072)
            outcome, fault = judged(found, 1024, partial(detected_fault, usual=usual, config=config))
            same = outcome == READ and not fault and found.value["value"] == usual
            outcome = {READ: SAME if same else AS_WRITTEN}.get(outcome, outcome)
            ledger.note(f"{name}: {what}", outcome, "code was run" if mark.exists() else fault)
            mark.unlink(missing_ok=True)
    return ledger


def map_of(folder: Path, case: Path) -> dict[str, Any]:
    """What a detector finds in a case: hash, sum and smallest value of its map, threshold, millilitres."""
    from mmccd.cases.case import Case
    from mmccd.detection.detect import detect_case
    from mmccd.detector import load_detector

    found = detect_case(Case.load(case), load_detector(folder), "flair")
    digest = hashlib.sha256(found.anomaly.tobytes()).hexdigest()
    sizes = {"sum": float(found.anomaly.sum()), "least": float(found.anomaly.min())}
    return {"map": digest, **sizes, "threshold": found.threshold, "ml": found.volume_ml}


def detected_fault(found: dict[str, Any], usual: dict[str, Any], config: bytes) -> str:
    """Is what a tampered detector found the usual, or what its config asks for?"""
    if found == usual:
        return ""
    said = (json.loads(config).get("calibration") or {}).get("threshold")
    numbers = [found["sum"], found["threshold"], found["ml"]]
    if not all(isinstance(v, float) and math.isfinite(v) and v >= 0 for v in numbers):
        return f"it found {found}"
    return "" if found["threshold"] == said else f"a threshold of {found['threshold']} where {said} is written"


# stores


def make_store(work: Path, n: int = 3, size: int = 16) -> Path:
    """A store of `n` toy cases, the first and, of five, the last with a lesion; slices of `size` pixels."""
    from mmccd.cases.prepare import prepare

    for i in range(n):
        write_case(work / "raw", f"c{i}", ("flair", "t2"), seed=i, lesion=i in (0, 4))
    prepare(work / "raw", work / "whole", size=size, fov=32.0, min_brain=1.0, jobs=1, progress=False)
    return work / "whole"


def content_of(store: Path) -> str:
    """A hash of all that a store gives to those who read it."""
    from mmccd.cases.store import SliceStore

    data = SliceStore(store).dataset(tumour_free=False, in_memory=False)
    batch = data.batch(range(len(data)))
    parts = [repr(data.rows), repr(sorted(batch)), *(batch[k].numpy().tobytes().hex() for k in sorted(batch))]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def store_damages(store: Path, rng: random.Random, n: int, mark: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """What can happen to a store, as a description and a function that does it."""
    files = sorted(p for p in store.rglob("*") if p.is_file())
    for _ in range(n):
        path, bits = rng.choice(files), rng.choice([1, 1, 1, 2, 8])
        content = mutants.flipped(path.read_bytes(), rng, bits)
        yield f"{bits} bits of {path.relative_to(store)}", lambda p=path, c=content: p.write_bytes(c)
    for path in files:
        content = path.read_bytes()
        at = rng.randrange(len(content))
        for what, new in {"empty": b"", "zeros": bytes(len(content)), f"cut at {at}": content[:at]}.items():
            yield f"{path.relative_to(store)} {what}", lambda p=path, c=new: p.write_bytes(c)
        yield f"{path.relative_to(store)} gone", path.unlink
        if path.name == "zarr.json":
            for what, changed in strange_configs(json.loads(content), rng, math.ceil(n / 20)):
                yield f"{path.relative_to(store)}: {what}", lambda p=path, c=changed: p.write_bytes(c)
    for case in ("c0", "c1"):
        yield f"{case} as zarr v2 with a pickle", lambda c=case: old_zarr(store / c, mark)


def old_zarr(case: Path, mark: Path) -> None:
    """Turn a case into zarr of format 2, whose filter unpickles the voxels."""
    attributes = json.loads((case / "zarr.json").read_text())["attributes"]
    shutil.rmtree(case)
    for name, dtype in (("images", "<f2"), ("masks", "|u1")):
        (case / name).mkdir(parents=True)
        layout = {"zarr_format": 2, "shape": [10, 2, 16, 16], "chunks": [10, 2, 16, 16], "dtype": dtype, "order": "C"}
        layout |= {"fill_value": 0, "filters": [{"id": "pickle"}], "compressor": None}
        (case / name / ".zarray").write_text(json.dumps(layout))
        (case / name / "0.0.0.0").write_bytes(pickle.dumps(Trap(mark)))
    (case / ".zgroup").write_text('{"zarr_format": 2}')
    (case / ".zattrs").write_text(json.dumps(attributes))


def stores(work: Path, rng: random.Random, scale: float) -> Ledger:
    """Damaged and hostile stores: refused, or nothing of what is read is another."""
    ledger, whole, mark, place = Ledger("stores"), make_store(work), work / "mark", work / "s"
    shutil.copytree(whole, place)
    usual = content_of(place)
    for what, damage in store_damages(place, rng, math.ceil(400 * scale), mark):
        damage()
        found = in_fork(lambda: refusal(lambda: content_of(place)), SECONDS, memory=3072)
        outcome, fault = judged(found, 512, lambda value: "" if value == usual else "other numbers without a word")
        outcome = {READ: SAME}.get(outcome, outcome)
        ledger.note(what, outcome, "code was run" if mark.exists() else fault)
        mark.unlink(missing_ok=True)
        shutil.rmtree(place)
        shutil.copytree(whole, place)
    return ledger
