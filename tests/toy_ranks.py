"""A training for several processes: `torchrun … toy_ranks.py OUT [STEP AT WHICH THE SECOND STOPS] [SIGNAL]`."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from toy_training import QUICK, Toy, detector

from mmccd.training.run import train

CONFIG = replace(QUICK, checkpoint_every=2)


class Watched(Toy):
    "Notes which slices each step read, and gets a signal at a step."

    def __init__(self, note: Path, dies_at: int = 0, by=signal.SIGKILL):
        super().__init__()
        self.note, self.dies_at, self.by, self.seen = note, dies_at, by, 0

    def batch(self, indices):
        if 1 < len(indices) < len(self):
            self.seen += 1
            if self.seen == self.dies_at:
                os.kill(os.getpid(), self.by)
            with open(self.note, "a") as file:
                file.write(" ".join(map(str, indices)) + "\n")
        return super().batch(indices)


def main():
    out, dies_at = Path(sys.argv[1]), int((sys.argv[2:] or [0])[0])
    rank = int(os.environ.get("RANK", 0))
    by = signal.Signals[sys.argv[3]] if sys.argv[3:] else signal.SIGKILL
    data = Watched(out.parent / f"{out.name}-read-{rank}.txt", dies_at * (rank == 1), by)
    config = replace(CONFIG, checkpoint_every=100) if by == signal.SIGTERM else CONFIG
    try:
        train(detector(), data, Toy(8, seed=1), out, config, resume=True, device="cpu", progress=False)
    except KeyboardInterrupt as stop:
        sys.exit(str(stop))


if __name__ == "__main__":
    main()
