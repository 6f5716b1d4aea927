"""A campaign of faults: mutated files, killed and stopped runs, full disks, tampered weights, several writers at once.

    python tests/campaign/campaign.py --seed 18 --out data/results/campaign.json

Prints what was tried, what survived and what was lost, kind by kind; the exit code is 1 where anything was lost. The
test `test_campaign.py` does the same without keeping the figures (`make campaign`).
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ |= {"MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1"}

import attack_files  # noqa: E402
import attack_runs  # noqa: E402
from forks import Fork, Outcome, warm  # noqa: E402
from ledger import HEAD, Ledger  # noqa: E402

SEED_VARIABLE = "MMCCD_CAMPAIGN_SEED"
QUICK = 0.03
LONGEST = 1500  # seconds that a kind may take on a slow machine before it counts as hung
Attack = Callable[[Path, random.Random, float], Ledger]

ATTACKS: dict[str, Attack] = {  # those that take longest first
    "nifti": attack_files.nifti_files,
    "killed-benchmark": partial(attack_runs.killed, name="benchmark"),
    "stores": attack_files.stores,
    "together": attack_runs.together,
    "weights": attack_files.weights_files,
    "checkpoints": attack_runs.checkpoints,
    "killed-train": partial(attack_runs.killed, name="train"),
    "full-disk": attack_runs.full_disk,
    "killed-detect": partial(attack_runs.killed, name="detect"),
    "killed-prepare": partial(attack_runs.killed, name="prepare"),
    "stopped-train": partial(attack_runs.stopped, name="train"),
    "stopped-detect": partial(attack_runs.stopped, name="detect"),
    "stopped-prepare": partial(attack_runs.stopped, name="prepare"),
    "labels": attack_files.label_files,
    "scans": attack_runs.changing_scans,
}


def chosen_seed() -> int:
    """The seed that the environment asks for; a new one where it asks for none."""
    return int(os.environ.get(SEED_VARIABLE) or secrets.randbelow(10**6))


def one_kind(name: str, seed: int, scale: float, work: Path) -> dict[str, Any]:
    """All attacks of a kind, as the JSON of their ledger."""
    began, place = time.monotonic(), work / name
    place.mkdir()
    ledger = ATTACKS[name](place, random.Random(f"{seed} {name}"), scale)
    ledger.seconds = time.monotonic() - began
    return ledger.as_json()


def campaign(names: Collection[str], seed: int, scale: float, jobs: int, work: Path) -> Iterator[tuple[str, Ledger]]:
    """Try the kinds of these names, `jobs` at a time, and yield each with its ledger as soon as it is done.

    Args:
        names: In `ATTACKS`.
        seed: The same seed tries the same files; when runs are killed depends on the machine, too.
        scale: Share of the attacks that are tried.
        jobs: Processes.
        work: Empty folder.
    """
    warm()
    waiting, running = [n for n in ATTACKS if n in names], {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                running[name] = Fork(partial(one_kind, name, seed, scale, work))
            time.sleep(0.05)
            for name, fork in list(running.items()):
                if not fork.running() or time.monotonic() - fork.began > LONGEST:
                    yield name, ledger_of(name, running.pop(name).end(0))
    finally:
        for fork in running.values():
            fork.end(0)


def ledger_of(name: str, found: Outcome) -> Ledger:
    """The ledger of a kind from the fork that did it; that the fork failed is a loss, too."""
    if found.value:
        return Ledger.from_json(found.value)
    ledger = Ledger(name, seconds=found.seconds)
    ledger.note("the campaign itself", "", f"ended with {found.code}: {found.err.strip()[-400:]}")
    return ledger


def report(seed: int, ledgers: Collection[Ledger], command: str, seconds: float) -> dict[str, Any]:
    """What is kept in data/results."""
    import torch

    from mmccd import __version__, phantom

    totals = Ledger("all")
    for ledger in ledgers:
        totals.add(ledger)
    counts = {"tried": totals.tried, "survived": totals.survived.total(), "lost": len(totals.losses)}
    return {
        "recipe": "experiments/recipes/campaign.yaml",
        "command": command,
        "date": date.today().isoformat(),
        "seed": seed,
        "device": f"cpu ({platform.machine()}, {os.cpu_count()} cores, one thread a process)",
        "torch": torch.__version__,
        "mmccd": __version__,
        "phantom": phantom.VERSION,
        "seconds": round(seconds),
        "all": counts,
        "kinds": {ledger.kind: ledger.figures() for ledger in ledgers},
        "losses": totals.losses,
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(ATTACKS)}; without it, all")
    parser.add_argument("--seed", type=int, help=f"default: {SEED_VARIABLE}, or a new one")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the attacks")
    parser.add_argument("--quick", action="store_true", help=f"--scale {QUICK}: a trial in a minute or two")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, help="JSON to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    from mmccd.files import to_json, write_atomic

    args = parse(argv)
    if unknown := set(args.kinds) - set(ATTACKS):
        raise SystemExit(f"unknown kind {min(unknown)}: choose {', '.join(ATTACKS)}")
    seed = chosen_seed() if args.seed is None else args.seed
    print(f"seed {seed}\n{HEAD}", flush=True)
    began, ledgers = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="mmccd-campaign-") as work:
        scale = QUICK if args.quick else args.scale
        for _name, ledger in campaign(args.kinds or ATTACKS, seed, scale, args.jobs, Path(work)):
            print(ledger.line(), *(f"    LOST {loss}" for loss in ledger.losses), sep="\n", flush=True)
            ledgers.append(ledger)
    command = " ".join(["python tests/campaign/campaign.py", *args.kinds, f"--seed {seed}"])
    found = report(seed, ledgers, command, time.monotonic() - began)
    print(f"{found['all']['tried']} tried, {found['all']['survived']} survived, {found['all']['lost']} lost")
    if args.out:
        write_atomic(args.out, to_json(found).encode())
    return 1 if found["losses"] else 0


if __name__ == "__main__":
    sys.exit(main())
