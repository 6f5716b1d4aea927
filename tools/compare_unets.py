"""Which small U-Net learns most in a given time? python tools/compare_unets.py [--seconds 240] [--only NAME ...]

Each network learns all six directed pairs of FLAIR, T1 and T2 at once (the pair is its label) on healthy phantom slices of 64x64, for the same CPU
seconds of one core, with a learning rate that falls over that time. Judged by the error inside the brain on subjects it has not seen, averaged weights.
Writes data/results/unets.json."""

import argparse
import itertools
import json
import math
import tempfile
import time
from datetime import date
from pathlib import Path

import torch

from mmccd.cases.phantoms import Phantoms
from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceStore
from mmccd.cases.subjects import split_subjects
from mmccd.runtime import derive_seed
from mmccd.training_loop import TrainConfig, batch_indices, ema_average, masked_mean
from mmccd.unet import UNet, count_parameters, preset

RESULT = Path(__file__).parent.parent / "data" / "results" / "unets.json"
MODALITIES = ("flair", "t1", "t2")
PAIRS = list(itertools.permutations(MODALITIES, 2))
CANDIDATES = {
    "stem 2, 16 x (1, 2, 2)": dict(channels=16, mults=(1, 2, 2)),
    "stem 2, 24 x (1, 2, 2)": dict(channels=24, mults=(1, 2, 2)),
    "stem 2, 32 x (1, 2, 2)": dict(channels=32, mults=(1, 2, 2)),
    "stem 2, 32 x (1, 1, 2)": dict(channels=32, mults=(1, 1, 2)),
    "stem 2, 24 x (1, 2, 2), no attention": dict(channels=24, mults=(1, 2, 2), attention=()),
    "stem 1, 16 x (1, 1, 2, 2)": dict(channels=16, mults=(1, 1, 2, 2), stem=1),
    "stem 4, 48 x (1, 2)": dict(channels=48, mults=(1, 2), stem=4),
}


def task(batch, labels):
    "Input and target of each slice, as its label says."
    stack = torch.stack([batch[m] for m in MODALITIES], 1)
    rows = torch.arange(len(labels))
    ends = torch.tensor([[MODALITIES.index(m) for m in p] for p in PAIRS])[labels]
    return [torch.where(batch["brain"], stack[rows, ends[:, k]], -1.0) for k in (0, 1)]


@torch.no_grad()
def judge(net, val):
    "Mean squared error inside the brain, by pair."
    net.eval()
    batch = val.batch(range(len(val)))
    errors = {}
    for k, pair in enumerate(PAIRS):
        labels = torch.full((len(val),), k)
        x, y = task(batch, labels)
        out = torch.cat([net(a, label=b) for a, b in zip(x.split(16), labels.split(16))])
        errors["-".join(pair)] = masked_mean((out - y) ** 2, batch["brain"]).item()
    net.train()
    return errors


def learn(config, data, val, seconds, lr, seed=0):
    "Train for so many CPU seconds."
    torch.manual_seed(derive_seed(seed, "weights"))
    net, settings = UNet(config), TrainConfig(batch_size=16, seed=seed)
    average = torch.optim.swa_utils.AveragedModel(net, avg_fn=lambda a, b, n: ema_average(a, b, n, 0.995))
    optimizer, step, begin = torch.optim.AdamW(net.parameters(), lr=lr), 0, time.process_time()
    while (spent := (time.process_time() - begin) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 50) * (1 + math.cos(math.pi * spent)) / 2
        batch = data.batch(batch_indices(len(data), settings, step))
        labels = torch.randint(
            len(PAIRS), (16,), generator=torch.Generator().manual_seed(derive_seed(seed, "step", step))
        )
        x, y = task(batch, labels)
        loss = masked_mean((net(x, label=labels) - y) ** 2, batch["brain"])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(net)
        step += 1
    errors = judge(average.module, val)
    return {
        "parameters": count_parameters(net),
        "steps": step,
        "val_loss": sum(errors.values()) / len(errors),
        "pairs": errors,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--subjects", type=int, default=60)
    parser.add_argument("--seed", type=int, default=4001, help="of the phantoms")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--only", nargs="*", default=list(CANDIDATES))
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        prepare(Phantoms(healthy=args.subjects, seed=args.seed), folder, modalities=MODALITIES, jobs=2)
        store = SliceStore(folder)
        parts = split_subjects(store.ids, val=0.15)
        data, val = (store.dataset(parts[k]) for k in ("train", "val"))
        found = {}
        for name in args.only:
            found[name] = learn(preset("tiny", labels=len(PAIRS), **CANDIDATES[name]), data, val, args.seconds, args.lr)
            print(
                f"{name:38} {found[name]['parameters']:8,} parameters, {found[name]['steps']:5} steps, loss {found[name]['val_loss']:.4f}",
                flush=True,
            )
    record = {
        "command": f"python tools/compare_unets.py --seconds {args.seconds:g} --subjects {args.subjects} --seed {args.seed} --lr {args.lr:g}",
        "date": date.today().isoformat(),
        "device": "cpu, one thread",
        "torch": torch.__version__,
        "seconds": args.seconds,
        "train": data.describe(),
        "validation": val.describe(),
        "networks": found,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
