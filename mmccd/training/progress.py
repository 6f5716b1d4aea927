"""How a training shows its progress: a bar on a terminal and in a notebook, some plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping

from mmccd.runtime import counted, duration

WARM_UP, MEASURED = 2, 8  # steps that are slower than others, and steps that the first estimate rests on


class Progress:
    """Progress on standard error.

    Args:
        total: Steps of the whole run.
        first: Steps that are done already.
        show: False prints nothing.
    """

    def __init__(self, total: int, first: int, show: bool = True) -> None:
        from tqdm.auto import tqdm

        self.total, self.first, self.show, self.last_line = total, first, show, first
        self.start = time.perf_counter()
        live = show and (sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel"))
        self.bar = tqdm(total=total, initial=first, desc="train", unit="step", dynamic_ncols=True) if live else None

    def write(self, line: str) -> None:
        """Print a line, above the bar where there is one."""
        if self.bar is not None:
            self.bar.write(line, file=sys.stderr)
        elif self.show:
            print(line, file=sys.stderr, flush=True)

    def step(self, step: int, row: Mapping[str, float] | None, validation_seconds: float) -> None:
        """Show that one more step is done.

        Args:
            step: Steps done so far.
            row: The new line of the log; None if there is none.
            validation_seconds: What the validations still to come will take.
        """
        if self.bar is not None:
            self.bar.update(1)
            if row:
                self.bar.set_postfix_str(f"loss {row['loss']:.4g}", refresh=False)
        elif row and 10 * step // self.total > 10 * self.last_line // self.total:
            self.last_line = step
            self.write(f"step {step} of {self.total}: loss {row['loss']:.4g}")
        if step == self.first + WARM_UP:
            self.start = time.perf_counter()
        if step == self.first + WARM_UP + MEASURED < self.total:
            each, left = (time.perf_counter() - self.start) / MEASURED, self.total - step
            self.write(
                f"{counted(left, 'step')} to go will take about {duration(each * left + validation_seconds)} "
                f"({each:.2g} s each)"
            )

    def close(self) -> None:
        """Leave the terminal in order."""
        if self.bar is not None:
            self.bar.close()
