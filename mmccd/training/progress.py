""""""

import sys
import time

from mmccd.runtime import counted, duration


class Progress:
    "A bar on a terminal and in a notebook; elsewhere a few plain lines."

    def __init__(
        self,
        total: int,  # steps of the run
        first: int,  # steps already done
        show=True,  # False: says nothing
    ):
        from tqdm.auto import tqdm

        self.total, self.first, self.show, self.told = total, first, show, first
        live = show and (sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel"))
        self.bar = tqdm(total=total, initial=first, desc="train", unit="step", dynamic_ncols=True) if live else None

    def say(self, text):  # one line
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        elif self.show:
            print(text, file=sys.stderr, flush=True)

    def step(
        self, step, row, pauses
    ):  # after each step: its number, its line of the log if any, seconds of validation to come
        if self.bar is not None:
            self.bar.update(1)
            if row:
                self.bar.set_postfix_str(f"loss {row['loss']:.4g}", refresh=False)
        elif row and 10 * step // self.total > 10 * self.told // self.total:
            self.told = step
            self.say(f"step {step} of {self.total}: loss {row['loss']:.4g}")
        if step == self.first + 2:
            self.start = time.perf_counter()  # the first steps are slower
        if step == self.first + 10 < self.total:
            each, left = (time.perf_counter() - self.start) / 8, self.total - step
            self.say(
                f"{counted(left, 'step')} to go will take about {duration(each * left + pauses)} ({each:.2g} s each)"
            )

    def close(self):
        if self.bar is not None:
            self.bar.close()
