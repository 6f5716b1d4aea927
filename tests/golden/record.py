"""Record what mmccd computes, to be compared after a change that must not change it.

    PYTHONPATH=.:tests MPLBACKEND=Agg HF_HUB_OFFLINE=1 .venv/bin/python -m golden.record [GROUP ...]

writes golden.json and maps.npz beside this file; without GROUP, all of `GROUPS`. tests/integration/test_golden.py
compares. An item has `values` (numbers by name, which other machines must reach nearly), `content` (hash of the arrays
behind them) and `sha256`, over both."""

import hashlib
import json
import platform
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy
import torch
from golden import adapter

HERE = Path(__file__).resolve().parent
PATIENT = ("glioma", 9137, 5, range(74, 83))  # kind, seed, index and slab; nobody else uses this one
CHOSEN = (1, 4, 7)  # three slices of the slab
SHOWN = 4  # every fourth pixel each way is kept, about one for each pixel of the networks
DETECTED = ("threshold-flair", "cycle-flair-t1", "mmccd-flair-t2")  # by the commands
STORE = dict(seed=9138, size=32, places=range(74, 80), modalities=("flair", "t1", "t2"), healthy=3, glioma=1)
TRAINING = dict(steps=40, batch_size=4, warmup=5, log_every=5, checkpoint_every=40, validate_every=40, val_slices=6)
BACK = {"mmccd with the way back of cycle": "mmccd", "masked with the way back of cycle": "masked"}
NO_RESULT = {"seconds", "date", "torch", "mmccd", "command", "fingerprint", "check"}  # keys of JSON that may change


def machine():
    "What has to be equal for results to be equal bit for bit."
    info, found = Path("/proc/cpuinfo"), {}
    for line in info.read_text().split("\n\n")[0].splitlines() if info.exists() else ():
        key, _, value = line.partition(":")
        found[key.strip()] = value.strip()
    cpu = " ".join(found.get(k, "?") for k in ("model name", "cpu family", "model", "stepping"))
    cpu += (
        f" {sha(found.get('flags', platform.processor()).encode())[:8]}"  # a hypervisor may hide some of its abilities
    )
    kernels = torch.backends.cpu.get_cpu_capability()
    versions = {"torch": torch.__version__, "numpy": np.__version__, "scipy": scipy.__version__}
    return {"cpu": cpu, "kernels": kernels, "threads": torch.get_num_threads(), **versions}


# ---------------------------------------------------------------------------------------------------------------- items


def sha(content):
    "SHA-256 of bytes."
    return hashlib.sha256(content).hexdigest()


def seal(values, content):
    "One hash of the numbers, to their last digit, and of the arrays."
    return sha(json.dumps(values, sort_keys=True).encode() + content.encode())


def item(values, arrays=()):
    "What is kept of one result. The order of the arrays, and their names, do not count."
    content = sha("".join(sorted(sha(np.ascontiguousarray(a).tobytes()) for a in arrays)).encode()) if arrays else ""
    return {"sha256": seal(values, content), "content": content, "values": values}


def moments(arrays):
    "Means and mean magnitudes of arrays; sorted, among those of the same size, so that nothing depends on names."
    found = {}
    for a in arrays:
        a = np.asarray(a, np.float64)
        for what, v in (("mean", a), ("magnitude", abs(a))):
            found.setdefault(f"{what} of {a.size}", []).append(float(v.mean()) if v.size else 0.0)
    return {k: sorted(v) for k, v in found.items()}


def is_number(x):
    "What JSON has for a number: null too, where there is none."
    return x is None or isinstance(x, (bool, int, float))


def numbers(x, path=""):
    "All numbers (and null) of JSON by path, innermost lists in one; tables with `columns` and `rows` by column."
    if isinstance(x, dict) and x.keys() >= {"columns", "rows"}:
        table = [dict(zip(x["columns"], row, strict=True)) for row in x["rows"]]
        x = {k: v for k, v in x.items() if k not in ("columns", "rows")} | {"rows": table}
    if is_number(x) or (isinstance(x, list) and x and all(map(is_number, x))):
        return {path: x}
    parts = x.items() if isinstance(x, dict) else enumerate(x) if isinstance(x, list) else ()
    return {k: v for key, part in parts if key not in NO_RESULT for k, v in numbers(part, f"{path}/{key}").items()}


# --------------------------------------------------------------------------------------------------------------- groups


def map_item(detector):
    "An anomaly map and its threshold: the item, and some of the pixels inside the brain."
    x, brain = adapter.slices_of(detector, *PATIENT, CHOSEN)
    a, brain = adapter.map_of(detector, x, brain, seed=0), brain.numpy()
    values = {"threshold": adapter.threshold_of(detector), "means": [float(s.mean()) for s in a.astype(np.float64)]}
    values |= {"brain": int(brain.sum()), "slices": [float(s.mean()) for s in x.double()]}
    some = (..., slice(SHOWN // 2, None, SHOWN), slice(SHOWN // 2, None, SHOWN))
    return item(values, [a, x.numpy(), brain]), a[some][brain[some]]


def detector_maps():
    "The map of every detector that comes with the package, and samples of them by name."
    found = {name: map_item(adapter.load(name)) for name in adapter.all_names()}
    return {k: v for k, (v, _) in found.items()}, {k: pixels for k, (_, pixels) in found.items()}


def commands(folder):
    "A case made, looked at and scored by the commands."
    cases, found = folder / "cases", {}
    adapter.run_cli(["phantom", cases, "--glioma", 1, "--seed", 9139, "--slices", "76:80"])
    made = adapter.voxels(cases).values()
    found["phantom"] = item(moments(made), made)
    for name in DETECTED:
        out, scores = folder / name, folder / f"{name}.json"
        adapter.run_cli(["detect", cases, "--out", out, "--weights", name, "--device", "cpu"])
        adapter.run_cli(["evaluate", out, cases, "--json", scores])
        for what in ("anomaly", "segmentation"):
            (volume,) = adapter.voxels(out, what).values()
            found[f"{what} {name}"] = item(moments([volume]), [volume])
        found[f"evaluate {name}"] = item(numbers(json.loads(scores.read_text())))
    return found


def store(place):
    "A store: its table and its arrays, of which only moments are kept, as half precision may round either way."
    adapter.prepare(place, **STORE)
    table, batch = adapter.rows_of(place), adapter.batch_of(place)
    found = {"table": item({id_and_place: list(areas) for id_and_place, areas in named(table)})}
    return found | {k: item(moments(v), [v]) for k, v in batch.items()}


def named(table):
    "The rows of a store by name and place."
    return [(f"{id} {place}", areas) for id, place, *areas in table]


def training(name, place, folder):
    "A short training: its log and its tensors. A way back is taken from the run `cycle`, which must lie in the folder."
    back = folder / "cycle" if name in BACK else None
    rows, tensors = adapter.train(BACK.get(name, name), place, folder / name, "flair", "t2", back, **TRAINING)
    values = {f"log {k}": [r[k] for r in rows if k in r] for k in sorted({k for r in rows for k in r})}
    return item(values | moments(tensors), tensors)


def trainings(folder):
    "Every method, `cycle` before those that take something from it."
    adapter.prepare(place := folder / "store", **STORE)
    return {name: training(name, place, folder) for name in (*adapter.all_methods(), *BACK)}


def benchmark(folder):
    "The benchmark at its smallest, by the command."
    adapter.run_cli(
        ["benchmark", "--preset", "smoke", "--out", folder / "out", "--device", "cpu", "--json", folder / "all.json"]
    )
    found = numbers(json.loads((folder / "all.json").read_text()))
    parts = {}
    for path, v in found.items():
        parts.setdefault(path.split("/")[1], {})[path] = v
    return {part: item(values) for part, values in parts.items()}


GROUPS = {
    "maps": None,  # `detector_maps`, kept in two files
    "commands": commands,
    "store": lambda folder: store(folder / "store"),
    "trainings": trainings,
    "benchmark": benchmark,
}


# ---------------------------------------------------------------------------------------------------------------- files


def recorded():
    "What was recorded: machine and groups, and pixels of maps by name."
    with np.load(HERE / "maps.npz") as kept:
        return json.loads((HERE / "golden.json").read_text()), dict(kept)


def write(golden):
    "JSON, with every innermost list on one line."
    text = json.dumps(golden, indent=1, allow_nan=False)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda m: re.sub(r"\s*\n\s*", " ", m[0]), text)
    (HERE / "golden.json").write_text(text + "\n")


def record(group):
    "One group, computed now."
    if group == "maps":
        found, pixels = detector_maps()
        np.savez_compressed(HERE / "maps.npz", **pixels)
        return found
    with tempfile.TemporaryDirectory() as folder:
        return GROUPS[group](Path(folder))


def main(groups):
    "Record some groups, or all; the others stay as they are, if they are of this machine."
    torch.set_num_threads(1)
    golden = json.loads((HERE / "golden.json").read_text()) if (HERE / "golden.json").exists() else {}
    if golden.get("machine", machine()) != machine() and set(groups) != set(GROUPS):
        raise SystemExit("golden.json is of another machine: record all groups at once")
    golden["machine"] = machine()
    for group in groups:
        start = time.process_time()
        golden[group] = record(group)
        print(f"{group}: {len(golden[group])} items, {time.process_time() - start:.1f} s of CPU", flush=True)
        write(golden)


if __name__ == "__main__":
    main(sys.argv[1:] or list(GROUPS))
