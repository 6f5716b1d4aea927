""""""

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import typer

from mmccd.cli.app import app
from mmccd.cli.options import Device, Json, Setting, check_json, parse_list, put_json
from mmccd.runtime import Interrupted


def back_from(
    name: str,  # of a trained detector: a method, a packaged name, or a folder; "": none
    method: str,  # what shall be trained
    first,  # an untrained detector of this method
):  # a `Detector`, or None
    "Where the way back comes from."
    if not name:
        return None
    from mmccd.detector import load_detector
    from mmccd.registry import trainable_methods

    c = first.config
    if not hasattr(c, "frozen_decoder"):
        raise ValueError(f"{method} learns its own way back: leave --back out")
    alone = name in trainable_methods() and not (Path(name) / "config.json").is_file()
    return load_detector(f"{name}-{c.input}-{c.target}" if alone else name)


def run_training(
    asked: dict,  # what was asked for, by option
):
    "Train; an interrupted run says how to go on."
    a = SimpleNamespace(**asked)
    check_json(a.json)
    from mmccd.registry import new_detector
    from mmccd.runtime import counted
    from mmccd.training.data import store_data
    from mmccd.training.run import train as fit
    from mmccd.training_loop import make_config

    config = make_config(
        a.preset,
        seed=a.seed,
        **{
            k: asked[k]
            for k in (
                "steps",
                "batch_size",
                "lr",
                "precision",
                "accumulate",
                "checkpoint_every",
                "validate_every",
                "val_slices",
                "patience",
            )
        },
    )
    of = dict(
        input=a.input.lower(), modalities=parse_list(a.modalities), unet="paper" if a.preset == "paper" else "tiny"
    ) | ({"target": a.target.lower()} if a.target else {})
    first = new_detector(
        a.method,
        a.seed,
        **{"target": next((m for m in (*of["modalities"], "t1", "t2") if m != of["input"]), "t1")} | of,
        size=128,
    )  # refuses here, before the data is read
    if bool(a.target) != hasattr(first.config, "target"):
        raise ValueError(
            f"{a.method} looks at one modality only: leave --target out"
            if a.target
            else f"{a.method} goes to another modality: say to which by --target"
        )
    if a.modalities and not hasattr(first.config, "modalities"):
        raise ValueError(f"{a.method} knows one pair of modalities only: leave --modalities out")
    back = back_from(a.back, a.method, first)
    data, val = store_data(
        a.store, of["input"], a.target.lower(), a.val, a.train_list, a.val_list, a.seed, of["modalities"]
    )
    detector = new_detector(a.method, a.seed, **of, **{k: data.recipe[k] for k in ("size", "normalisation")})
    if back:
        from mmccd.masked_diffusion import load_frozen_decoder

        load_frozen_decoder(detector, back)
    try:
        record = fit(detector, data, val, a.out, config, a.resume, a.device)
    except KeyboardInterrupt as e:
        raise Interrupted(str(e) or "stopped") from e
    put_json(record, a.json)
    last = record["result"]
    if a.json != "-":
        print(
            f"{a.method} {'from' if a.target else 'on'} {of['input']}{f' to {a.target.lower()}' * bool(a.target)}: {counted(last['step'], 'step')}, validation loss {last['val_loss']:.4g}, in {a.out}"
        )


@app.command(
    epilog="Example: mmccd train cycle slices.zarr --input flair --target t2 --out run. Then: mmccd detect CASE --weights run --out results"
)
def train(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD",
            help="What to train: cycle (to another modality and back, with U-Nets), mmccd (the same with a part hidden, which diffusion imagines), masked (mmccd without diffusion) or toy (cycle with small networks); or, with one modality, ae, ae-dense, vae (autoencoders), dae (denoising), ddpm, ddpm-simplex (diffusion part of the way).",
        ),
    ],
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="Store of slices, as prepare leaves it: a folder or a URL.")
    ],
    input: Annotated[str, typer.Option(metavar="flair|t1|t1ce|t2", help="Modality to look at.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder of the run; made where missing.")],
    target: Annotated[
        str,
        typer.Option(
            metavar="flair|t1|t1ce|t2",
            help="Modality to translate it to; for cycle, mmccd, masked and toy.",
            show_default=False,
        ),
    ] = "",
    modalities: Annotated[
        str,
        typer.Option(
            metavar="flair,t1,t2",
            help="Learn all of these (or all their pairs) at once, with networks that are told which.  [default: what --input and --target say]",
        ),
    ] = "",
    back: Annotated[
        str,
        typer.Option(
            metavar="NAME|RUN",
            help="For mmccd and masked: take the way back from a trained cycle, and train the way there only. NAME of one that comes with mmccd, such as cycle, or RUN, its folder.  [default: both are trained]",
        ),
    ] = "",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in RUN, or start it where there is none.")
    ] = False,
    preset: Annotated[
        str,
        typer.Option(
            metavar="smoke|tiny|paper",
            help="All settings at once: smoke (20 steps, for seconds), tiny (2,000 steps, for a CPU), paper (settings of the paper: 100,000 steps, for a GPU).",
        ),
    ] = "tiny",
    steps: Setting(int, "Optimizer steps.", "N") = None,  # 1 or more
    batch_size: Setting(int, "Slices a step.", "N") = None,  # 1 or more
    lr: Setting(float, "Learning rate.", "X") = None,  # above 0
    precision: Setting(str, "Precision of the arithmetic.", "32|bf16|fp16") = None,  # one of the three
    accumulate: Setting(int, "Work a batch off in N pieces, to save memory.", "N") = None,  # divides the batch size
    checkpoint_every: Setting(
        int, "Steps between two checkpoints; a killed run loses at most these.", "N"
    ) = None,  # 1 or more
    patience: Setting(
        int,
        help="End when N validations in a row have brought no progress (1 % in all), at a level learning rate; --steps is then the most.",
        metavar="N",
    ) = None,
    validate_every: Setting(int, help="Steps between two validations.", metavar="N") = None,
    val_slices: Setting(int, help="Slices of a validation, at most.", metavar="N") = None,
    val: Annotated[
        float, typer.Option(metavar="SHARE|N", help="Share of the subjects to validate on, or how many if 1 or more.")
    ] = 0.1,
    train_list: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Names of the subjects to learn from, one a line.", show_default=False),
    ] = None,
    val_list: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Names of the subjects to validate on.", show_default=False)
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of all randomness (split, first weights, order): same seed, same result.")
    ] = 0,
    device: Device = "auto",  # where it runs
    json: Json = "",  # file, or - for standard output
):
    "Train a detector on the healthy slices of a store."
    return run_training(locals())
