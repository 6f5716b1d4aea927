"""Runs that are disturbed: killed, stopped, out of disk, several at once, or told to go on from tampered files."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import os
import pickle
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attack_files import REFUSED, SAME, Trap, make_store, strange_configs
from forks import Command, Fork, in_fork
from ledger import Ledger
from scenes import SCENES, Scene, blank_reports, changes, snapshot, train_words
from toy_cases import write_case
from toy_detection import DETECT

FINISHED = "as if undisturbed after the same command again"
KILLS = {"detect": 24, "prepare": 24, "train": 14, "benchmark": 12}
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# killed and stopped


def killed(work: Path, rng: random.Random, scale: float, name: str) -> Ledger:
    """SIGKILL at random moments, up to three times in a row, then the same command again."""
    ledger = Ledger(f"{name} killed")
    blank_reports()
    scene = SCENES[name](work).rehearse()
    while ledger.tried < max(1, KILLS[name] * scale):
        scene.fresh()
        moments: list[str] = []
        for _ in range(rng.choice([1, 1, 2, 3])):
            run = Fork(scene.again if moments else scene.first)
            moment = rng.uniform(0, scene.seconds)
            if run.wait(moment):
                run.end()
                break
            run.send(signal.SIGKILL)
            run.end()
            moments.append(f"{moment:.2f}")
        if moments:
            what = f"killed after {', '.join(moments)} of {scene.seconds:.1f} s"
            fault = in_fork(scene.again, 300).fault(0) or scene.fault()
            for k in range(len(moments)):
                ledger.note(what, FINISHED, "" if k else fault)
    return ledger


def stopped(work: Path, rng: random.Random, scale: float, name: str) -> Ledger:
    """SIGTERM, Ctrl-C or the end of the terminal: nothing unfinished stays behind, and the same command goes on."""
    ledger = Ledger(f"{name} stopped")
    blank_reports()
    scene = SCENES[name](work).rehearse()
    for k in range(max(1, round(9 * scale))):
        scene.fresh()
        number, moment = STOPS[k % 3], rng.uniform(0.02, scene.seconds)
        run = Fork(scene.first)
        run.wait(moment)
        run.send(number)
        found = run.end()
        fault = found.fault(0, 128 + number, -number)  # -number: before the command had begun to listen
        hidden = (
            [n for n in snapshot(scene.out) if "/." in f"/{n}" or n.endswith(".part")] if scene.out.exists() else []
        )
        if hidden and not fault:
            fault = f"left {hidden[:3]}"
        fault = fault or in_fork(scene.again, 300).fault(0, 2 * (found.code == 0 and name == "train")) or scene.fault()
        ledger.note(f"{number.name} after {moment:.2f} of {scene.seconds:.1f} s", FINISHED, fault)
    return ledger


# a full disk


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[], object]]:
    """A disk of `size` bytes at `folder`, and a function that makes it large enough.

    Raises:
        OSError: This user may not mount one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        raise OSError("no disk can be mounted")
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def unfinished(out: Path, wanted: dict[str, str]) -> str:
    """What a run that failed left and should not have, in words: parts of files, and empty ones."""
    if not out.exists():
        return ""
    parts = [n for n in snapshot(out) if "/." in f"/{n}" or n.endswith(".part")]
    empty = [n for n in snapshot(out) if (out / n).is_file() and not (out / n).stat().st_size]
    return f"left {parts[:3]}" if parts else f"left empty files {empty[:3]}" if empty else ""


def full_disk(work: Path, rng: random.Random, scale: float) -> Ledger:
    """A disk that fills up at a random byte, or a file that may not grow: one sentence, and afterwards all is well."""
    ledger = Ledger("full disk")
    blank_reports()
    for name in ("detect", "prepare", "train"):
        scene = SCENES[name](work / name / "disk")
        scene.out = work / name / "disk" / "out"
        scene.rehearse()
        for k in range(max(2, round(14 * scale))):
            try:
                what, fault = (file_limit if k % 2 else disk_limit)(scene, rng)
            except OSError:
                what, fault = file_limit(scene, rng)
            ledger.note(f"{name}, {what}", FINISHED, fault)
    return ledger


def disk_limit(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """Run on a disk with room for a part of the result only."""
    room = rng.randrange(4096, scene.size + 8192 * len(scene.wanted))
    shutil.rmtree(scene.out, ignore_errors=True)
    with small_disk(scene.out, room) as enlarge:
        if scene.mine:
            (scene.out / "notes of mine.txt").write_text("precious")
        found = in_fork(scene.first, 300)
        fault = found.fault(0, 2) or (found.code and unfinished(scene.out, scene.wanted)) or ""
        enlarge()
        fault = fault or in_fork(scene.again, 300).fault(0) or scene.fault()
    return f"a disk of {room} bytes", fault


def file_limit(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """Run where no file may be larger than a random size."""
    largest = rng.randrange(0, scene.largest)
    scene.fresh()
    found = in_fork(scene.first, 300, largest_file=largest)
    fault = found.fault(0, 2) or (found.code and unfinished(scene.out, scene.wanted)) or ""
    fault = fault or in_fork(scene.again, 300).fault(0) or scene.fault()
    return f"files of at most {largest} bytes", fault


# several at once


def at_once(runs: list[Callable[[], Any]], rng: random.Random, seconds: float, pause: bool) -> list[Fork]:
    """Begin runs at random moments; one of them may be held at a random moment until the others are done."""
    forks = []
    for run in runs:
        forks.append(Fork(run))
        time.sleep(rng.uniform(0, seconds / len(runs)))
    if pause:
        held = rng.choice(forks)
        held.send(signal.SIGSTOP)
        for other in forks:
            if other is not held:
                other.wait(seconds * 5 + 20)
        held.send(signal.SIGCONT)
    return forks


def together(work: Path, rng: random.Random, scale: float) -> Ledger:
    """Several runs of one command into one folder: they share the work or are kept apart in words; nothing is lost."""
    ledger = Ledger("writers at once")
    blank_reports()
    for name, n in {"detect": 8, "prepare": 8, "train": 5, "benchmark": 2}.items():
        scene = SCENES[name](work / name).rehearse()
        for k in range(max(1, round(n * scale))):
            scene.fresh()
            runs = at_once([scene.first] * rng.choice([2, 3]), rng, scene.seconds, pause=bool(k % 2))
            found = [r.end(300) for r in runs]
            fault = next((f for f in (o.fault(0, *BUSY[name]) for o in found) if f), "")
            if not fault and all(o.code for o in found):
                fault = f"none of them succeeded: {found[0].err.strip()[-200:]}"
            fault = fault or scene.fault()
            ledger.note(f"{len(runs)} x {name}", "the result of one", fault)
    ledger.add(shared_out(work / "array", rng, math.ceil(8 * scale)))
    ledger.add(two_detectors(work / "two", rng, math.ceil(8 * scale)))
    return ledger


BUSY = {"detect": (), "prepare": (2,), "train": (2,), "benchmark": (2,)}
"""Exit codes that a second run may have beside 0."""


def shared_out(work: Path, rng: random.Random, n: int) -> Ledger:
    """An array of detect jobs, a case each, into one folder: all of them are in detect.json."""
    ledger, scene = Ledger(""), SCENES["detect"](work).rehearse()
    for k in range(n):
        scene.fresh()
        words = ["--out", scene.out, "--input", "flair"]
        jobs = [Command(*DETECT, case, *words) for case in sorted(scene.inputs.iterdir())]
        runs = at_once(jobs, rng, scene.seconds / 3, pause=bool(k % 2))
        fault = next((f for f in (r.end(300).fault(0) for r in runs) if f), "") or scene.fault()
        ledger.note("an array of detect, a case each", "all cases recorded", fault)
    return ledger


def two_detectors(work: Path, rng: random.Random, n: int) -> Ledger:
    """Two detectors into one folder at once: what is there at the end is of one of them, and the other one says so."""
    ledger, scenes = Ledger(""), {}
    for kind in ("threshold-flair", "equalised-flair"):
        scenes[kind] = SCENES["detect"](work / kind, "--weights", kind).rehearse()
    cases, out = next(iter(scenes.values())).inputs, work / "out"
    maps = {k: {n: h for n, h in s.wanted.items() if n.endswith(".nii.gz")} for k, s in scenes.items()}
    for k in range(n):
        shutil.rmtree(out, ignore_errors=True)
        order = rng.sample(list(scenes), 2)
        jobs = [Command("detect", cases, "--out", out, "--input", "flair", "--weights", kind) for kind in order]
        runs = at_once(jobs, rng, scenes[order[0]].seconds, pause=bool(k % 2))
        found = [r.end(300) for r in runs]
        fault = next((f for f in (o.fault(0, 2) for o in found) if f), "")
        run = json.loads((out / "detect.json").read_text())
        there = {n: h for n, h in snapshot(out).items() if n.endswith(".nii.gz")}
        if not fault and not there.items() <= maps[run["weights"]].items():
            fault = f"detect.json says {run['weights']}, and some maps are not of it"
        if not fault and all(o.code for o in found):
            fault = "neither of them got through"
        ledger.note("two detectors at once", "one refused, nothing mixed", fault)
    return ledger


# tampered checkpoints


def sealed(content: bytes) -> bytes:
    """Bytes with the checksum that a checkpoint has."""
    return content + hashlib.sha256(content).digest()


def saved(value: Any) -> bytes:
    """A checkpoint with its checksum."""
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return sealed(buffer.getvalue())


def strange_checkpoints(path: Path, rng: random.Random, n: int, mark: Path) -> Iterator[tuple[str, bytes]]:
    """Contents of a checkpoint that it should not have."""
    import torch

    content = path.read_bytes()
    good = torch.load(io.BytesIO(content[:-32]), weights_only=True)
    for _ in range(n):
        at = rng.randrange(len(content))
        yield f"cut at {at}", content[:at]
        yield f"a bit at {at}", content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
    yield "empty", b""
    yield "nothing but a checksum", sealed(b"")
    yield "a pickle with a checksum", sealed(pickle.dumps(Trap(mark)))
    yield "a pickle inside", saved({**good, "more": Trap(mark)})
    yield "a list", saved([1, 2])
    for key in good:
        yield f"without {key}", saved({k: v for k, v in good.items() if k != key})
    for key, value in {"global_step": 10**9, "losses": "x", "callbacks": {}, "state_dict": 1, "loops": {}}.items():
        yield f"{key} = {value!r}", saved({**good, key: value})
    broken = {k: v * math.nan if v.is_floating_point() else v for k, v in good["state_dict"].items()}
    yield "weights of NaN", saved({**good, "state_dict": broken})
    for key, value in {"rows": "abc", "calibration": {"threshold": math.nan}, "spent": -1, "asked": "x"}.items():
        state = copy.deepcopy(good["callbacks"])
        next(iter(state.values()))[key] = value
        yield f"of the callback {key} = {value!r}", saved({**good, "callbacks": state})


def half_done(scene: Scene, place: Path) -> Path:
    """A copy of a run after four of six steps, with two checkpoints; returns where the newer one lies."""

    def run() -> int:
        from mmccd.training import callback

        callback.remove_older = lambda *_: None
        return scene.first()

    scene.fresh()
    in_fork(run, 300)
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(scene.out, place)
    for name in ("config.json", "model.safetensors", "curve.png", "README.md", "checkpoints/step-0000006.ckpt"):
        (place / name).unlink()
    record = json.loads((place / "train.json").read_text())
    (place / "train.json").write_text(json.dumps({"status": "not done", "about": record["about"]}))
    return place / "checkpoints/step-0000004.ckpt"


def checkpoints(work: Path, rng: random.Random, scale: float) -> Ledger:
    """Tampered checkpoints and records of a run: gone on from what is whole, or refused; no code is run."""
    ledger, mark = Ledger("checkpoints"), work / "mark"
    words = train_words(make_store(work), work / "out")
    scene = Scene("train", work / "out", Command(*words), Command(*words, "--resume"), work / "whole", mine=False)
    scene.rehearse()
    newer = half_done(scene, work / "half")
    tries = [(newer, w, c) for w, c in strange_checkpoints(newer, rng, math.ceil(6 * scale), mark)]
    record = work / "half/train.json"
    tries += [(record, w, c) for w, c in strange_configs(json.loads(record.read_text()), rng, math.ceil(16 * scale))]
    for path, what, content in tries:
        shutil.rmtree(scene.out, ignore_errors=True)
        shutil.copytree(work / "half", scene.out)
        (scene.out / path.relative_to(work / "half")).write_bytes(content)
        before = snapshot_bytes(scene.out)
        found = in_fork(scene.again, 120)
        fault = found.fault(0, 2)
        if not fault and found.code == 0:
            result = ("config.json", "model.safetensors", "log.csv")
            now, wanted = snapshot(scene.out), scene.wanted
            fault = changes({k: now.get(k, "") for k in result}, {k: wanted[k] for k in result})
        elif not fault and snapshot_bytes(scene.out) != before:
            fault = "refused, and changed the run"
        outcome = REFUSED if found.code else SAME
        ledger.note(f"{path.name}: {what}", outcome, "code was run" if mark.exists() else fault)
        mark.unlink(missing_ok=True)
    return ledger


def snapshot_bytes(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, with its bytes."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# scans that change


def changing_scans(work: Path, rng: random.Random, scale: float) -> Ledger:
    """A scan that is replaced before, or while, it is read: never the map of another one without a word."""
    ledger = Ledger("scans that change")
    blank_reports()
    scene = SCENES["detect"](work).rehearse()
    write_case(work / "other", "c1", ("flair", "t2"), seed=50)
    scan, other = scene.inputs / "c1/c1_flair.nii.gz", work / "other/c1/c1_flair.nii.gz"
    mine = scan.read_bytes()
    maps = {mine: scene.wanted["c1/c1_anomaly.nii.gz"]}
    scan.write_bytes(other.read_bytes())
    in_fork(Command(*DETECT, scene.inputs / "c1", "--out", work / "ref", "--input", "flair"), 120)
    maps[other.read_bytes()] = snapshot(work / "ref")["c1/c1_anomaly.nii.gz"]
    for _ in range(max(1, round(10 * scale))):
        scan.write_bytes(mine)
        scene.fresh()
        moment = rng.uniform(0, scene.seconds)
        run = Fork(scene.first)
        run.wait(moment)
        part = scan.with_name("part")
        part.write_bytes(other.read_bytes())
        part.replace(scan)
        fault = run.end().fault(0, 2) or in_fork(scene.again, 120).fault(0)
        if not fault and snapshot(scene.out).get("c1/c1_anomaly.nii.gz") != maps[scan.read_bytes()]:
            fault = "the map is of the scan that was there before"
        ledger.note(f"replaced after {moment:.2f} of {scene.seconds:.1f} s", "the map of the new scan", fault)
    return ledger
