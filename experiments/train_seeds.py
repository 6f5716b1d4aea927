"""Train the networks of packaged weights again with other seeds, for the spread between trainings.

    python experiments/train_seeds.py masked mmccd --seeds 1 2     into build/experiments/run-masked-1 and so on

Store and options are those of experiments/weights.yaml; a method that begins with another one begins with that one's
run of the same seed. Interrupted trainings go on.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from command import run_script
from train_weights import ROOT, commands, load_settings, run_command


def main(argv: list[str] | None = None) -> int:
    known, stores, _ = load_settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="+", choices=list(known))
    parser.add_argument("--seeds", nargs="+", type=int, required=True, help="of first weights, order, masks and noise")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "experiments", help="folder for stores and runs")
    args = parser.parse_args(argv)
    for seed in args.seeds:
        for method in args.methods:
            settings = known[method]
            start = f"{settings.start}-{seed}" if settings.start else ""
            prepare, learn = commands(method, replace(settings, start=start), stores, f"{args.work}/")
            run_command(prepare)
            run_command(f"{learn}-{seed} --seed {seed} --resume")
    return 0


if __name__ == "__main__":
    run_script(main)
