"""A training for several processes: `torchrun --nproc-per-node 2 toy_ranks.py OUT [STEP AT WHICH THE SECOND DIES]`."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from toy_training import QUICK, Toy, detector

from mmccd.training.run import train

CONFIG = replace(QUICK, checkpoint_every=2)


class Watched(Toy):
    "Notes which slices each step read, and dies at a step."

    def __init__(self, note: Path, dies_at: int = 0):
        super().__init__()
        self.note, self.dies_at, self.seen = note, dies_at, 0

    def batch(self, indices):
        if 1 < len(indices) < len(self):
            self.seen += 1
            if self.seen == self.dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            with open(self.note, "a") as file:
                file.write(" ".join(map(str, indices)) + "\n")
        return super().batch(indices)


def main():
    out, dies_at = Path(sys.argv[1]), int((sys.argv[2:] or [0])[0])
    rank = int(os.environ.get("RANK", 0))
    data = Watched(out.parent / f"{out.name}-read-{rank}.txt", dies_at * (rank == 1))
    train(detector(), data, Toy(8, seed=1), out, CONFIG, resume=True, device="cpu", progress=False)


if __name__ == "__main__":
    main()
