"""Train networks for a few minutes each, on a machine that has a GPU and PyTorch and nothing else of ours.

    python experiments/gpu_train.py train mmccd --data slices.safetensors --seeds 0 1 2 --seconds 60 --out results
    python experiments/gpu_train.py unpack results --out build/experiments

`gpu_run.sh` calls it stage by stage. How a method is trained stands in experiments/weights.yaml; what is other here is
that a training lasts so many seconds instead of steps, with larger batches and in bfloat16. A stage is one method and
one seed; where weights.yaml lets a method `--start` from another one, it starts from that one's stage. Finished ones
are not repeated and a stopped one goes on from its last checkpoint, both in --work. Results are gathered in a few files
below the limit of what such a machine gives back. `unpack` makes folders of them that `mmccd detect --weights` takes,
each `run-METHOD-sSEED`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from command import run_script
from pack_slices import PackedSlices
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mmccd.cli.app import parse
from mmccd.cli.train import TrainOptions, check_method, detector_fields, load_other
from mmccd.detector import Detector, save_detector
from mmccd.files import write_atomic
from mmccd.masked_diffusion import load_frozen_decoder, load_start
from mmccd.registry import new_detector
from mmccd.runtime import derive_seed, evenly_spaced, say
from mmccd.training_loop import OPTIONS, TrainConfig, lr_factor, make_config

SETTINGS = Path(__file__).parent / "weights.yaml"
LARGEST = 15 * 2**20  # bytes of a file of results
SCORED = 48  # slices whose hidden part is compared with the truth
STEPS = 100_000  # in which the schedule of the learning rate counts the time of a stage


def build(method: str, seed: int, recipe: dict[str, Any], work: Path | None = None) -> tuple[Detector, TrainConfig]:
    """An untrained detector of a method, and how it is trained, both by the line `train` in experiments/weights.yaml.

    Args:
        method: Name in weights.yaml.
        seed: Of its first weights and of the training.
        recipe: Of the slices.
        work: Folder of finished stages, one of which it may start from; None leaves its first weights as they are.

    Raises:
        ValueError: It starts from a method that is not done yet.
    """
    known = yaml.safe_load(SETTINGS.read_text())["methods"]
    if method not in known:
        raise ValueError(f"weights.yaml has no method {method}: choose {', '.join(known)}")
    options = parse(["train", method, "slices", "--out", "run", *shlex.split(known[method]["train"])])
    assert isinstance(options, TrainOptions)
    first = check_method(options)
    settings = detector_fields(options) | {k: recipe[k] for k in ("size", "fov", "normalisation")}
    detector = new_detector(method, seed, **settings)
    if options.decoder:
        load_frozen_decoder(detector, load_other(options.decoder, first.config.input, first.config.target))
    if options.start and work:
        path = work / f"{Path(options.start).name.removeprefix('run-')}-s{seed}.safetensors"
        if not path.exists():
            raise ValueError(f"{method} starts from {options.start}: train that first, there is no {path}")
        load_start(detector, rebuild(*read_stage(path)))
    config = make_config(options.preset, **{k: getattr(options, k) for k in OPTIONS if k != "seed"})
    return detector, replace(config, seed=seed)


# one stage


@dataclass
class Stage:
    """A detector on its way: what a checkpoint holds."""

    detector: Detector
    config: TrainConfig
    generator: torch.Generator
    step: int = 0
    seconds: float = 0.0
    log: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.average = deepcopy(self.detector).eval()
        learned = [p for p in self.detector.parameters() if p.requires_grad]
        fused = self.detector.device.type == "cuda"
        c = self.config
        self.optimizer = torch.optim.AdamW(learned, lr=c.lr, weight_decay=c.weight_decay, fused=fused)

    def update_average(self) -> None:
        """Move the average towards the weights; as `mmccd.training_loop.ema_average`, for all tensors at once."""
        n = max(self.step, 1)
        new = 1.0 if self.step == 0 else 1 - min((1 + n) / (10 + n), self.config.ema)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.detector.parameters()), new)

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        part = path.with_suffix(".part")
        kept = {k: getattr(self, k).state_dict() for k in ("detector", "average", "optimizer")}
        kept |= {"generator": self.generator.get_state(), "step": self.step, "seconds": self.seconds, "log": self.log}
        torch.save(kept, part)
        part.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        kept = torch.load(path, map_location=self.detector.device, weights_only=True)
        for k in ("detector", "average", "optimizer"):
            getattr(self, k).load_state_dict(kept[k])
        self.generator.set_state(kept["generator"].cpu())
        self.step, self.seconds, self.log = kept["step"], kept["seconds"], kept["log"]


def train_step(stage: Stage, data: PackedSlices, done: float) -> Tensor:
    """One step of training at a share `done` of the stage; the loss."""
    c, device = stage.config, stage.detector.device
    for group in stage.optimizer.param_groups:
        group["lr"] = c.lr * lr_factor(max(int(done * STEPS), min(stage.step, c.warmup)), replace(c, steps=STEPS))
    i = torch.randint(len(data), (c.batch_size,), generator=stage.generator, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        loss = stage.detector.loss(data.batch(i), stage.generator)
    stage.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(stage.detector.parameters(), c.clip)
    stage.optimizer.step()
    stage.update_average()
    stage.step += 1
    return loss.detach()


@torch.no_grad()
def validation(detector: Detector, val: PackedSlices, config: TrainConfig) -> dict[str, float]:
    """Loss on healthy slices of other heads, always the same ones with the same noise, and what else it has to tell."""
    generator = torch.Generator(detector.device).manual_seed(derive_seed(config.seed, "validation"))
    chosen = torch.tensor(evenly_spaced(len(val), config.val_slices)).split(config.batch_size)
    losses = [detector.loss(val.batch(i), generator) * len(i) for i in chosen]
    some = val.batch(evenly_spaced(len(val), SCORED))
    loss = torch.stack(losses).sum().item() / sum(map(len, chosen))
    return {"val_loss": loss, **detector.validation_scores(some, generator)}


def run_stage(
    stage: Stage, data: PackedSlices, val: PackedSlices, limit: float, keep: Callable[[], None], rows: int = 10
) -> None:
    """Train until `limit` seconds are over, those before a checkpoint included; `keep` is called at each log line."""
    losses: list[Tensor] = []
    begun = time.monotonic() - stage.seconds
    stage.detector.train()
    while stage.seconds < limit:
        losses.append(train_step(stage, data, stage.seconds / limit))
        if len(losses) % 10 == 0:
            losses[-1].item()  # waits for the GPU, so that the clock tells what was done
        stage.seconds = time.monotonic() - begun
        if stage.seconds >= limit * (len(stage.log) + 1) / rows:
            loss = torch.stack(losses).mean().item()
            if not loss < float("inf"):
                raise ValueError(f"the loss is {loss} at step {stage.step}: a lower learning rate may help")
            row = {"seconds": stage.seconds, "step": stage.step, "samples": stage.step * stage.config.batch_size}
            stage.log.append(row | {"loss": loss} | validation(stage.average, val, stage.config))
            say("  " + ", ".join(f"{k} {v:.4g}" for k, v in stage.log[-1].items()))
            losses.clear()
            keep()


def finished(stage: Stage) -> dict[str, Tensor]:
    """The averaged tensors that were learned, in float16."""
    learned = {k for k, p in stage.detector.named_parameters() if p.requires_grad}
    kept = {k: v for k, v in stage.average.state_dict().items() if k in learned}
    return {k: v.half().cpu().contiguous() for k, v in kept.items()}


def train(args: argparse.Namespace) -> None:
    """Train all seeds of a method, as far as they are not done, and gather the results after each."""
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    slices = PackedSlices.load(args.data, device)
    heads = slices.head.unique().tolist()
    data, val = slices.of_heads(heads[: -args.val]), slices.of_heads(heads[-args.val :])
    args.work.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        result = args.work / f"{args.method}-s{seed}.safetensors"
        checkpoint = result.with_suffix(".checkpoint")
        if result.exists():
            continue
        detector, config = build(args.method, seed, slices.recipe, args.work)
        changes = {k: v for k, v in (("batch_size", args.batch_size), ("lr", args.lr)) if v}
        torch.manual_seed(derive_seed(seed, "dropout"))
        generator = torch.Generator(device).manual_seed(derive_seed(seed, "training"))
        stage = Stage(detector.to(device), replace(config, **changes), generator)
        if checkpoint.exists():
            stage.load(checkpoint)
        say(f"{args.method}, seed {seed}: {len(data)} slices, {args.seconds:g} s on {device}")
        run_stage(stage, data, val, args.seconds, partial(stage.save, checkpoint), args.rows)
        about = {"method": args.method, "seed": seed, "recipe": slices.recipe, "log": stage.log}
        about |= {"lr": stage.config.lr, "batch_size": stage.config.batch_size, "device": str(device)}
        part = result.with_suffix(".part")
        save_file(finished(stage), part, {"about": json.dumps(about)})
        part.replace(result)
        checkpoint.unlink(missing_ok=True)
        gather(args.work, args.out)


# results on their way back


def read_stage(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a file of one or several stages says of them, and its tensors."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["about"]), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118


def gather(work: Path, out: Path) -> None:
    """Put the results of all finished stages into as few files as possible, and their logs into one of JSON."""
    parts: list[tuple[dict[str, Any], dict[str, Tensor]]] = []
    for path in sorted(work.glob("*.safetensors")):
        about, tensors = read_stage(path)
        nbytes = sum(t.nbytes for t in tensors.values())
        if not parts or sum(t.nbytes for t in parts[-1][1].values()) + nbytes > LARGEST:
            parts.append(({}, {}))
        parts[-1][0][path.stem] = about
        parts[-1][1].update({f"{path.stem}/{k}": v for k, v in tensors.items()})
    out.mkdir(parents=True, exist_ok=True)
    for k, (about, tensors) in enumerate(parts):
        save_file(tensors, out / f"part-{k}.safetensors", {"about": json.dumps(about)})
    logs = {name: about for part, _ in parts for name, about in part.items()}
    write_atomic(out / "log.json", (json.dumps(logs, indent=1) + "\n").encode())


def rebuild(about: dict[str, Any], tensors: dict[str, Tensor]) -> Detector:
    """The detector of a finished stage.

    Raises:
        ValueError: weights.yaml describes another network now.
    """
    detector, _ = build(about["method"], about["seed"], about["recipe"])
    shapes = {k: p.shape for k, p in detector.named_parameters() if p.requires_grad}
    if shapes != {k: v.shape for k, v in tensors.items()}:
        raise ValueError(f"the tensors of {about['method']} do not fit: weights.yaml has changed since it was trained")
    detector.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
    return detector.eval()


def unpack(folder: Path, out: Path) -> list[Path]:
    """Make a folder that detectors are loaded from, of each stage in the files that came back; not calibrated yet."""
    made = []
    for path in sorted(folder.glob("part-*.safetensors")):
        stages, tensors = read_stage(path)
        for name, about in stages.items():
            own = {k.partition("/")[2]: v for k, v in tensors.items() if k.partition("/")[0] == name}
            made.append(save_detector(rebuild(about, own), out / f"run-{name}"))
            write_atomic(made[-1] / "log.json", (json.dumps(about, indent=1) + "\n").encode())
    return made


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("train", help="train all seeds of a method")
    one.add_argument("method", help="a method in experiments/weights.yaml")
    one.add_argument("--data", type=Path, required=True, help="slices, from pack_slices.py")
    one.add_argument("--seeds", type=int, nargs="+", default=[0])
    one.add_argument("--seconds", type=float, default=60, help="of training, for each seed")
    one.add_argument("--batch-size", type=int, default=256)
    one.add_argument("--lr", type=float, help="learning rate (default: that of weights.yaml)")
    one.add_argument("--val", type=int, default=12, help="heads to validate on, the last ones")
    one.add_argument("--rows", type=int, default=10, help="lines of the log, each with a validation")
    one.add_argument("--device", help="default: cuda where there is one")
    one.add_argument("--work", type=Path, default=Path("build/gpu"), help="folder of checkpoints and finished stages")
    one.add_argument("--out", type=Path, default=Path("build/gpu/out"), help="folder of what goes back")
    back = commands.add_parser("unpack", help="make folders of what came back")
    back.add_argument("folder", type=Path)
    back.add_argument("--out", type=Path, default=Path("build/experiments"))
    args = parser.parse_args(argv)
    if args.command == "train":
        train(args)
    else:
        for path in unpack(args.folder, args.out):
            say(str(path))
    return 0


if __name__ == "__main__":
    run_script(main)
