"""Keep the averaged weights of a run of training at each of its validations, while it runs.

    python experiments/snapshots.py build/experiments/run-masked

copies them to RUN/snapshots/STEP, from before the run begins until it is done. A run itself keeps its latest weights
only.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import time
from pathlib import Path

from mmccd.files import swap_in, working_folder
from mmccd.weights.storage import read_weights


def latest_validation(run: Path) -> int:
    """The last step in the log at which the run was validated; 0: at none after the first."""
    with (run / "log.csv").open() as log:
        return max((int(r["step"]) for r in csv.DictReader(log) if r["val_loss"]), default=0)


def keep(run: Path) -> Path | None:
    """Copy the weights of the latest validation, unless that was done; the folder, where there is something new.

    Raises:
        ValueError: The weights are half written; try again.
    """
    step = latest_validation(run)
    out = run / "snapshots" / str(step)
    if not step or out.exists():
        return None
    out.parent.mkdir(exist_ok=True)
    with working_folder(out.parent) as part:
        new = part / out.name
        new.mkdir()
        for name in ("config.json", "model.safetensors"):
            shutil.copy(run / name, new / name)
        read_weights(new, None).read_tensors()  # checksums: tensors and settings belong together
        swap_in(new, out, part)
    return out


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--every", type=float, default=10, metavar="SECONDS", help="between two looks at the run")
    args = parser.parse_args(argv)
    record = args.run / "train.json"
    while True:
        done = record.exists() and json.loads(record.read_text())["status"] == "done"
        try:
            if (args.run / "log.csv").exists() and (kept := keep(args.run)):
                print(kept, flush=True)
        except ValueError as error:
            print(f"{error}: trying again", file=sys.stderr)
            done = False
        if done:
            return 0
        time.sleep(args.every)


if __name__ == "__main__":
    sys.exit(main())
