""""""

import signal
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import torch
from torch import nn

from mmccd.detector import Detector
from mmccd.runtime import derive_seed, kept_random_state
from mmccd.training.checkpoint import ChecksummedCheckpointIO
from mmccd.training_loop import PRECISIONS, Batches, diverged, ema_average, lr_factor


class Fit:
    "Any `Detector` as a LightningModule: its loss, its optimizer, its average. Lightning's class is put below it by `on`."

    def __init__(
        self,
        detector: Detector,  # with a `loss`
        data,  # has `len` and `batch(indices)`
        config,  # a `TrainConfig`
    ):
        from torch.optim.swa_utils import AveragedModel

        super().__init__()
        self.detector, self.data, self.settings, self.norm, self.losses = detector, data, config, 0.0, []
        self.ema = AveragedModel(detector, avg_fn=partial(ema_average, decay=config.ema))  # part of every checkpoint

    def train_dataloader(self):
        return Batches(self.data, self.settings, self.trainer.global_step)

    def configure_optimizers(self):
        c = self.settings
        optimizer = torch.optim.AdamW(self.detector.parameters(), lr=c.lr, weight_decay=c.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(lr_factor, config=c))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch, batch_idx):
        step, piece, batch = batch
        torch.manual_seed(seed := derive_seed(self.settings.seed, "step", step, piece))  # dropout
        loss = self.detector.loss(batch, torch.Generator(self.device).manual_seed(seed))
        if not loss.isfinite():
            raise diverged("loss", loss, step)
        self.losses.append(loss.detach())
        return loss

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.norm = nn.utils.clip_grad_norm_(self.detector.parameters(), self.settings.clip)
        if self.settings.precision != "fp16" and not self.norm.isfinite():  # fp16 skips such a step by itself
            raise diverged("gradient", self.norm, self.trainer.global_step)

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        self.ema.update_parameters(self.detector)

    # losses since the last line of the log
    def on_save_checkpoint(self, checkpoint):
        checkpoint["losses"] = [v.item() for v in self.losses]

    def on_load_checkpoint(self, checkpoint):
        self.losses = [torch.tensor(v) for v in checkpoint["losses"]]


def make_lightning_module(
    base,  # a class of Lightning
    cls,  # a class of ours
) -> type:
    "Put `cls` on top of `base`: Lightning takes seconds to import, so nothing here names it before it is used."
    return type(cls.__name__, (cls, base), {})


@contextmanager
def quiet():
    "Lightning greets, advises and sums up; all that matters is said here in other words. Signals and random state are as before afterwards."
    import logging
    import warnings

    names, signals = ("lightning.pytorch", "lightning.fabric"), (signal.SIGINT, signal.SIGTERM)
    levels, handlers = [logging.getLogger(n).level for n in names], [signal.getsignal(s) for s in signals]
    for n in names:
        logging.getLogger(n).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), kept_random_state():
            for module in ("lightning", "torch.optim.lr_scheduler"):
                warnings.filterwarnings("ignore", module=module)
            yield
    finally:
        for n, level in zip(names, levels):
            logging.getLogger(n).setLevel(level)
        with suppress(ValueError):
            for s, handler in zip(signals, handlers):
                signal.signal(s, handler)


def make_trainer(
    out: Path,  # folder of the run
    config,  # a `TrainConfig`
    device: str,  # cpu, cuda or mps
    keeper,  # a `Keeper` on Lightning's Callback
):  # Lightning's Trainer
    "Lightning does the loop, the device, the precision and the state of all its parts; what this course explains it leaves to us."
    from importlib.util import find_spec

    import lightning.pytorch as L
    from lightning.pytorch.plugins.environments import LightningEnvironment
    from lightning.pytorch.plugins.io import CheckpointIO

    board = L.loggers.TensorBoardLogger(out, name="", version="tensorboard") if find_spec("tensorboard") else False
    return L.Trainer(
        accelerator={"cuda": "gpu"}.get(device, device),
        devices=1,
        precision=PRECISIONS[config.precision],
        max_steps=config.steps,
        max_epochs=-1,
        accumulate_grad_batches=config.accumulate,
        callbacks=[keeper],
        logger=board,
        default_root_dir=out,
        plugins=[make_lightning_module(CheckpointIO, ChecksummedCheckpointIO)(), LightningEnvironment()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
