""""""

import signal
import time
from contextlib import suppress
from pathlib import Path

from mmccd.files import write_atomic
from mmccd.training.checkpoint import keep_newest, saving
from mmccd.training.log import log_text, sample_figure, save_sample
from mmccd.training.progress import Progress
from mmccd.training_loop import converged, lr_factor, validate


class TrainingCallback:
    "What happens between the steps: log, validate, checkpoint, and stop when asked to. `on` puts Lightning's Callback below it."

    def __init__(
        self,
        out: Path,  # folder of the run
        val,  # healthy slices
        show,  # progress on standard error
    ):
        self.out, self.val, self.show, self.asked, self.bar, self.step = out, val, show, False, None, 0
        self.rows, self.spent, self.pause, self.calibration = [], 0.0, 0.0, None

    # what a checkpoint holds of this, beside all that Lightning keeps
    def state_dict(self):
        return dict(rows=self.rows, spent=self.seconds, pause=self.pause, calibration=self.calibration)

    def load_state_dict(self, state):
        self.__dict__.update(state)

    @property
    def seconds(self):
        return self.spent + time.perf_counter() - self.began

    def on_train_start(self, trainer, fit):
        self.began, self.step = time.perf_counter(), trainer.global_step
        self.bar = Progress(fit.settings.steps, self.step, self.show)
        if not self.step:
            self.note(trainer, fit, self.check(fit))
        trainer.should_stop = self.enough(fit)  # killed after its last checkpoint
        with suppress(ValueError):  # only the main thread may
            for name in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(name) != signal.SIG_IGN:
                    signal.signal(name, self.ask)

    def enough(self, fit):
        return converged([r["val_loss"] for r in self.rows if "val_loss" in r], fit.settings)

    def ask(self, *_):  # the first time: stop after this step; the second time: now
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def check(self, fit):
        start, detector = time.perf_counter(), fit.ema.module
        found = validate(detector, self.val, fit.settings, step=self.step)
        self.calibration = detector.calibration
        with saving(self.out):
            save_sample(sample_figure(detector, self.val, f"step {self.step}"), self.out, self.step)
            if self.step:
                detector.save_pretrained(self.out)
        self.pause = time.perf_counter() - start
        return found

    def note(self, trainer, fit, found):
        c, losses = fit.settings, fit.losses
        made = (
            dict(
                loss=float(sum(losses) / len(losses)), lr=c.lr * lr_factor(self.step - 1, c), grad_norm=float(fit.norm)
            )
            if losses
            else {}
        )
        self.rows.append(
            dict(step=self.step, samples=self.step * c.batch_size) | made | found | dict(seconds=round(self.seconds, 2))
        )
        fit.losses = []
        with saving(self.out):
            write_atomic(self.out / "log.csv", log_text(self.rows).encode())
        if trainer.logger:
            trainer.logger.log_metrics({k: v for k, v in self.rows[-1].items() if k != "step"}, self.step)

    def on_train_batch_end(self, trainer, fit, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            return  # this batch is worked off in pieces, and more are to come
        self.step, c, due = (
            trainer.global_step,
            fit.settings,
            lambda every: self.step % every == 0 or self.step == c.steps,
        )
        if logs := due(c.log_every) or due(c.validate_every):
            self.note(trainer, fit, self.check(fit) if due(c.validate_every) else {})
        stop = self.asked or self.enough(fit)  # decided once: a signal from here on is for the next step
        if due(c.checkpoint_every) or stop:
            path = self.out / "checkpoints" / f"step-{self.step:07d}.ckpt"
            with saving(self.out):
                trainer.save_checkpoint(path)
                keep_newest(self.out, path)
        self.bar.step(self.step, logs and self.rows[-1], self.pause * ((c.steps - self.step) // c.validate_every + 1))
        trainer.should_stop = stop
