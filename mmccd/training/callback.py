"""What happens between the steps: log, validate, save checkpoints, stop. Imports Lightning: import it late."""

import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as L

from mmccd.files import write_atomic
from mmccd.runtime import STOPPING, note_signal, stop_requested
from mmccd.training.checkpoint import checkpoint_path, explained_write_errors, remove_older
from mmccd.training.data import TrainingData
from mmccd.training.fit import DetectorModule
from mmccd.training.log import Row, log_text, sample_figure, save_sample
from mmccd.training.progress import Progress, validations_left
from mmccd.training.ranks import ALONE, Ranks
from mmccd.training_loop import TrainConfig, converged, lr_factor, validate


class TrainingCallback(L.Callback):
    """Logs, validates and saves checkpoints at their steps, and stops the run where its rule or a signal says so.

    The first SIGINT or SIGTERM lets the current step finish and saves a checkpoint, the second stops at once. In a
    thread, which gets no signals, `runtime.stopped_by` does what the first one does.

    Args:
        out: Folder of the run.
        val: Healthy slices to validate on.
        show: Show progress on standard error.
        ranks: The processes that train together; the first one validates, logs and writes for all.
    """

    def __init__(self, out: Path, val: TrainingData, show: bool, ranks: Ranks = ALONE) -> None:
        self.out, self.val, self.show, self.ranks = out, val, show and ranks.is_first, ranks
        self.step = 0  # optimizer steps done
        self.rows: list[Row] = []  # of the log
        self.calibration: dict[str, Any] | None = None  # of the last validation
        self.validation_seconds = 0.0  # that the last validation took
        self.earlier_seconds = 0.0  # of the processes before this one
        self.began = time.perf_counter()
        self.stop_requested, self.converged = False, False
        self.progress: Progress | None = None

    @property
    def state_key(self) -> str:  # under which checkpoints hold the state; that of version 0.1, for its checkpoints
        return "Keeper"

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "spent": self.seconds,
            "pause": self.validation_seconds,
            "calibration": self.calibration,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.calibration = state_dict["rows"], state_dict["calibration"]
        self.earlier_seconds, self.validation_seconds = state_dict["spent"], state_dict["pause"]

    @property
    def seconds(self) -> float:
        """Time that the run has taken so far, in all its processes."""
        return self.earlier_seconds + time.perf_counter() - self.began

    def agree(self, trainer: L.Trainer, config: TrainConfig) -> None:
        """Let all processes know whether one of them was asked to stop, and whether `patience` ends the run here."""
        ended = converged([r["val_loss"] for r in self.rows if "val_loss" in r], config)
        if self.ranks.world == 1:
            self.converged = ended
            return
        any_of = trainer.strategy.reduce_boolean_decision
        self.stop_requested, self.converged = any_of(self.stop_requested, all=False), any_of(ended, all=False)

    def request_stop(self, number: int, _frame: object) -> None:
        """Signal handler: stop after this step, and on a second signal at once."""
        note_signal(number)
        if self.stop_requested:
            raise KeyboardInterrupt
        self.stop_requested = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, DetectorModule)
        self.began, self.step = time.perf_counter(), trainer.global_step
        self.progress = Progress(pl_module.config.steps, self.step, self.show)
        if not self.step:
            self.write_row(trainer, pl_module, validated=True)
        self.agree(trainer, pl_module.config)  # it may have been killed between its last checkpoint and its end
        trainer.should_stop = self.converged
        with suppress(ValueError):  # only the main thread may set signals
            for number in STOPPING:
                if signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, self.request_stop)

    def validate(self, module: DetectorModule) -> Row:
        """Validation loss and threshold of the averaged weights; saves a sample picture, and the weights so far."""
        start, detector = time.perf_counter(), module.averaged
        found = validate(detector, self.val, module.config, step=self.step)
        self.calibration = detector.calibration
        with explained_write_errors(self.out):
            save_sample(sample_figure(detector, self.val, f"step {self.step}"), self.out, self.step)
            if self.step:
                detector.save_pretrained(self.out)
        self.validation_seconds = time.perf_counter() - start
        return found

    def write_row(self, trainer: L.Trainer, module: DetectorModule, validated: bool) -> None:
        """Add a line to the log, validating first if it is time, and write the log anew."""
        module.share_losses()
        if not self.ranks.is_first:
            module.losses = []
            return
        found = self.validate(module) if validated else {}
        c, losses = module.config, module.losses
        row: Row = {"step": self.step, "samples": self.step * c.batch_size}
        if losses:
            row |= {
                "loss": float(sum(losses) / len(losses)),
                "lr": c.lr * lr_factor(self.step - 1, c),
                "grad_norm": float(module.grad_norm),
            }
        self.rows.append(row | found | {"seconds": round(self.seconds, 2)})
        module.losses = []
        with explained_write_errors(self.out):
            write_atomic(self.out / "log.csv", log_text(self.rows).encode())
        if trainer.logger:
            trainer.logger.log_metrics({k: v for k, v in self.rows[-1].items() if k != "step"}, self.step)

    def save_checkpoint(self, trainer: L.Trainer) -> None:
        """Save a checkpoint, then make room; Lightning lets the first process write, and the others wait."""
        pl_module = trainer.lightning_module
        assert isinstance(pl_module, DetectorModule)
        pl_module.share_losses()
        path = checkpoint_path(self.out, self.step)
        with explained_write_errors(self.out):
            trainer.save_checkpoint(path)
            if self.ranks.is_first:
                remove_older(self.out, path)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, DetectorModule)
        if trainer.global_step == self.step:
            return  # a piece of an accumulated batch, and more are to come
        self.step, c = trainer.global_step, pl_module.config

        def due(every: int) -> bool:
            return self.step % every == 0 or self.step == c.steps

        logged = due(c.log_every) or due(c.validate_every)
        if logged:
            self.write_row(trainer, pl_module, validated=due(c.validate_every))
        self.stop_requested = self.stop_requested or stop_requested()
        self.agree(trainer, c)  # once: a later signal is for the next step
        stop = self.stop_requested or self.converged
        if due(c.checkpoint_every) or stop:
            self.save_checkpoint(trainer)
        if self.progress:
            validating = self.validation_seconds * validations_left(self.step, c.steps, c.validate_every)
            self.progress.step(self.step, self.rows[-1] if logged and self.rows else None, validating)
        trainer.should_stop = stop
