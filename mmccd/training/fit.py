"""Any detector as a LightningModule, and the Trainer for it. Imports Lightning, which takes seconds: import it late."""

import json
import logging
import signal
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mmccd.detector import Detector
from mmccd.runtime import STOPPING, derive_seed, kept_random_state
from mmccd.training.checkpoint import ChecksummedCheckpointIO
from mmccd.training.data import TrainingData
from mmccd.training.loader import PieceLoader, workers_for
from mmccd.training.ranks import ALONE, Ranks
from mmccd.training_loop import PRECISIONS, Batches, TrainConfig, ema_average, lr_factor
from mmccd.weights.renames import current_tensor_name


class LightningCheckpointIO(ChecksummedCheckpointIO, CheckpointIO):
    """Our checkpoints as the plugin that Lightning wants."""


def diverged(quantity: str, value: Tensor, step: int) -> ValueError:
    """The error for a training whose loss or gradient (`quantity`) is not finite at `step`, counted from 0."""
    return ValueError(
        f"the {quantity} is {value.item()} at step {step}, so this training has diverged: start it again in another "
        "folder with a lower learning rate (--lr)"
    )


class DetectorModule(L.LightningModule):
    """The loss of a detector, its optimizer and its moving average, as Lightning's hooks.

    Args:
        detector: Has a `loss`; it is trained in place.
        data: What to train on.
        config: All settings.
        about: What the run is, from `describe_run`; a checkpoint of another one is refused.
        workers: Processes that read ahead; None leaves it to us.
        ranks: The processes that train together.
    """

    def __init__(
        self,
        detector: Detector,
        data: TrainingData,
        config: TrainConfig,
        about: dict[str, Any] | None = None,
        workers: int | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__()
        self.detector, self.data, self.config, self.about = detector, data, config, about
        self.workers, self.ranks = workers_for(data, workers), ranks
        self.grad_norm: Tensor | float = 0.0
        self.losses: list[Tensor] = []  # since the last line of the log
        self.ema = AveragedModel(detector, avg_fn=partial(ema_average, decay=config.ema))  # part of every checkpoint

    @property
    def averaged(self) -> Detector:
        """The detector with the averaged weights."""
        averaged = self.ema.module
        assert isinstance(averaged, Detector)
        return averaged

    def train_dataloader(self) -> PieceLoader:
        batches = Batches(self.data, self.config, self.trainer.global_step, self.ranks.world)
        return PieceLoader(batches, self.workers, self.ranks.rank, self.ranks.world, self.device.type == "cuda")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        c = self.config
        optimizer = torch.optim.AdamW(self.detector.parameters(), lr=c.lr, weight_decay=c.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(lr_factor, config=c))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: tuple[int, int, dict[str, Tensor]], batch_idx: int) -> Tensor:
        step, piece, slices = batch
        seed = derive_seed(self.config.seed, "step", step, piece)
        torch.manual_seed(seed)  # for dropout, which takes no generator
        loss = self.detector.loss(slices, torch.Generator(self.device).manual_seed(seed))
        if not loss.isfinite():
            raise diverged("loss", loss, step)
        self.losses.append(loss.detach())
        return loss

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        self.grad_norm = nn.utils.clip_grad_norm_(self.detector.parameters(), self.config.clip)
        if self.config.precision != "fp16" and not self.grad_norm.isfinite():  # fp16 skips such a step by itself
            raise diverged("gradient", self.grad_norm, self.trainer.global_step)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.ema.update_parameters(self.detector)

    def share_losses(self) -> None:
        """Make the losses since the last line of the log those of all processes together: their means."""
        if self.ranks.world > 1 and self.losses:
            self.losses = list(self.trainer.strategy.reduce(torch.stack(self.losses), reduce_op="mean"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["losses"] = [v.item() for v in self.losses]
        checkpoint["about"] = json.dumps(self.about)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.losses = [torch.tensor(v) for v in checkpoint["losses"]]
        known = self.state_dict().keys()
        stored = checkpoint["state_dict"].items()  # perhaps of an earlier version; Lightning loads it after this
        checkpoint["state_dict"] = {k if k in known else current_tensor_name(k): v for k, v in stored}
        if any(v.dtype != self.state_dict()[k].dtype for k, v in checkpoint["state_dict"].items() if k in known):
            raise TypeError("a tensor of the checkpoint is of another type")  # it would be rounded in silence


@contextmanager
def quiet_lightning() -> Generator[None]:
    """Keep Lightning's greetings, advice and warnings out; signals and random state are afterwards as before."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    handlers = {s: signal.getsignal(s) for s in STOPPING}
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), kept_random_state():
            for module in ("lightning", "torch.optim.lr_scheduler"):
                warnings.filterwarnings("ignore", module=module)
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
        with suppress(ValueError):  # only the main thread may set signals
            for number, handler in handlers.items():
                signal.signal(number, handler)


def make_trainer(out: Path, config: TrainConfig, device: str, callback: L.Callback, ranks: Ranks = ALONE) -> L.Trainer:
    """Lightning's Trainer for a run: loop, device, precision and accumulation; all else is in `callback`.

    Args:
        out: Folder of the run; TensorBoard's files go there too, if it is installed.
        config: All settings.
        device: cpu, cuda or mps.
        callback: A `TrainingCallback`.
        ranks: The processes that train together.
    """
    together: Any = {"devices": 1, "plugins": [LightningCheckpointIO(), LightningEnvironment()]}
    if ranks.world > 1:  # some parts of a detector, and its average, take no part in the loss
        ddp = DDPStrategy(find_unused_parameters=True)
        plugins = [LightningCheckpointIO(), ranks.environment]
        together = {
            "devices": ranks.world // ranks.nodes,
            "num_nodes": ranks.nodes,
            "strategy": ddp,
            "plugins": plugins,
        }
    board = (
        TensorBoardLogger(out, name="", version="tensorboard") if find_spec("tensorboard") and ranks.is_first else False
    )
    return L.Trainer(
        accelerator={"cuda": "gpu"}.get(device, device),
        precision=PRECISIONS[config.precision],  # pyrefly: ignore[bad-argument-type]
        max_steps=config.steps,
        max_epochs=-1,
        accumulate_grad_batches=config.accumulate,
        callbacks=[callback],
        logger=board,
        default_root_dir=out,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **together,
    )
