"""How a training shows its progress: a bar on a terminal and in a notebook, some plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack

from mmccd.progress import status_lines
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
        self.done, self.loss = first, ""  # steps so far, and the last loss that is known
        live = show and (sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel"))
        self.bar = tqdm(total=total, initial=first, desc="train", unit="step", dynamic_ncols=True) if live else None
        self.lines = ExitStack()  # also while a validation takes long
        self.lines.enter_context(status_lines(lambda: f"train: {self.describe()}", show and not live))

    def describe(self) -> str:
        """How far the training is, in words."""
        return f"step {self.done} of {self.total}{self.loss}"

    def write(self, line: str) -> None:
        """Print a line, above the bar where there is one."""
        if self.bar is not None:
            self.bar.write(line, file=sys.stderr)
        elif self.show:
            print(line, file=sys.stderr, flush=True)

    def step(self, step: int, row: Mapping[str, float] | None, validation_seconds: float) -> None:
        """Show that one more step is done; without a terminal by a line for each tenth of them.

        Args:
            step: Steps done so far.
            row: The new line of the log; None if there is none.
            validation_seconds: What the validations still to come will take.
        """
        self.done = step
        self.loss = f": loss {row['loss']:.4g}" if row else self.loss
        if self.bar is not None:
            self.bar.update(1)
            self.bar.set_postfix_str(self.loss.removeprefix(": "), refresh=False)
        elif row and 10 * step // self.total > 10 * self.last_line // self.total:
            self.last_line = step
            self.write(self.describe())
        if step == self.first + WARM_UP:
            self.start = time.perf_counter()
        if step == self.first + WARM_UP + MEASURED < self.total:
            self.write(estimate((time.perf_counter() - self.start) / MEASURED, self.total - step, validation_seconds))

    def close(self) -> None:
        """Leave the terminal in order."""
        self.lines.close()
        if self.bar is not None:
            self.bar.close()


def estimate(each: float, left: int, validation_seconds: float) -> str:
    """Say how long the rest of a training will take, so that the numbers add up.

    Args:
        each: Seconds that a step takes.
        left: Steps still to come.
        validation_seconds: What the validations still to come will take.
    """
    validating = f", and {duration(validation_seconds)} to validate" * (validation_seconds >= 0.5)
    total = duration(each * left + validation_seconds)
    return f"{counted(left, 'step')} to go will take about {total} ({each:.2g} s each{validating})"


def validations_left(step: int, steps: int, every: int) -> int:
    """Return how many validations are to come after `step`: one after each `every` steps, and one after the last."""
    return steps // every - step // every + bool(steps % every and step < steps)
