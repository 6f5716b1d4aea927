"""`mmccd train`: a detector from the healthy slices of a store."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

import typer

from mmccd.cli.app import command
from mmccd.cli.options import Device, Options, Subjects, parse_list, put_json, setting, show
from mmccd.registry import METHODS, Method, find_method, trainable_methods
from mmccd.runtime import counted

if TYPE_CHECKING:
    from mmccd.detector import Detector

IN_MEMORY: dict[str, bool | Literal["auto"]] = {"auto": "auto", "yes": True, "no": False}


def methods(paired: bool) -> list[Method]:
    """Return the methods that can be trained and go to another modality, or those that do not."""
    return [m for m in METHODS.values() if m.trainable and m.paired == paired]


def summaries(paired: bool) -> str:
    """Return their names, and what each does, for the help."""
    return "; ".join(f"{m.name} ({m.summary})" for m in methods(paired))


@dataclass(frozen=True)
class TrainOptions(Options):
    """What to train, on what, for how long."""

    command: ClassVar[str] = "train"
    result: ClassVar[frozenset[str]] = frozenset(("status", "about"))

    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD",
            help=f"What to train. With a --target: {summaries(paired=True)}. With one modality alone: "
            f"{summaries(paired=False)}.",
        ),
    ]
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="Store of slices, as prepare leaves it: a folder or a URL.")
    ]
    input: Annotated[str, typer.Option(metavar="flair|t1|t1ce|t2", help="Modality that detect will be given.")]
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder of the run; made where missing.")]
    target: Annotated[
        str,
        typer.Option(
            metavar="flair|t1|t1ce|t2",
            help=f"Modality to translate it to; for {', '.join(m.name for m in methods(paired=True))}.",
            show_default=False,
        ),
    ] = ""
    modalities: Annotated[
        str,
        typer.Option(
            metavar="flair,t1,t2",
            help="Learn all of these (or all their pairs) at once, with networks that take the modality as an input.  "
            "[default: what --input and --target say]",
        ),
    ] = ""
    decoder: Annotated[
        str,
        typer.Option(
            metavar="NAME|RUN",
            help="For mmccd and masked: take the decoder, which leads from the target back to the input, from a "
            "trained cycle, keep it as it is, and train the other direction only. NAME of one that comes with mmccd, "
            "such as cycle, or RUN, its folder.  [default: both are trained]",
        ),
    ] = ""
    start: Annotated[
        str,
        typer.Option(
            metavar="NAME|RUN",
            help="For mmccd and masked: begin with the weights that another one, such as a masked one with the same "
            "network, uses on the way to the target.  [default: weights drawn at random]",
        ),
    ] = ""
    imagination: Annotated[
        str,
        typer.Option(
            metavar="published|located|detailed",
            help="For mmccd and masked: what the network is told of the hidden part: nothing (published), where it is "
            "(located), or its fine detail too (detailed).  [default: detailed, and published for those called so]",
            show_default=False,
        ),
    ] = ""
    median: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="The map is the median of the error over N x N pixels, N odd; 1: the error itself.",
        ),
    ] = 1
    expected_error: Annotated[
        bool,
        typer.Option(
            "--expected-error",
            help="Divide the error by that which healthy tissue would have, as learned at the end from the validation "
            "subjects.",
        ),
    ] = False
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in RUN, or start it where there is none.")
    ] = False
    preset: Annotated[
        str,
        typer.Option(
            metavar="smoke|tiny|paper",
            help="All settings at once: smoke (20 steps, for seconds), tiny (2,000 steps, for a CPU), paper (settings "
            "of the paper: 100,000 steps, for a GPU).",
        ),
    ] = "tiny"
    steps: Annotated[int | None, setting("Optimizer steps.", "N")] = None
    batch_size: Annotated[int | None, setting("Slices a step.", "N")] = None
    lr: Annotated[float | None, setting("Learning rate.", "X")] = None
    precision: Annotated[str | None, setting("Precision of the arithmetic.", "32|bf16|fp16")] = None
    accumulate: Annotated[int | None, setting("Work a batch off in N pieces, to save memory.", "N")] = None
    checkpoint_every: Annotated[
        int | None, setting("Steps between two checkpoints; a killed run loses at most these.", "N")
    ] = None
    patience: Annotated[
        int | None,
        setting(
            "End when N validations in a row have brought no progress (1 % in all), at a level learning rate; --steps "
            "is then the most.",
            "N",
        ),
    ] = None
    validate_every: Annotated[int | None, setting("Steps between two validations.", "N")] = None
    val_slices: Annotated[int | None, setting("Slices of a validation, at most.", "N")] = None
    val: Annotated[
        float, typer.Option(metavar="SHARE|N", help="Share of the subjects to validate on, or how many if 1 or more.")
    ] = 0.1
    train_list: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Names of the subjects to learn from, one a line.", show_default=False),
    ] = None
    val_list: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Names of the subjects to validate on.", show_default=False)
    ] = None
    subjects: Subjects = None
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of all randomness (split, first weights, order): same seed, same result.")
    ] = 0
    device: Device = "auto"
    in_memory: Annotated[
        str,
        typer.Option(
            metavar="auto|yes|no", help="Read all slices once and keep them; auto: where half of the free memory does."
        ),
    ] = "auto"
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Processes that read slices ahead.  [default: none for slices in memory, else as the cores allow]",
            show_default=False,
        ),
    ] = None
    threads: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Of the arithmetic on a CPU; with more than 1 the last digits depend on how many."
        ),
    ] = 1


def detector_fields(options: TrainOptions) -> dict[str, Any]:
    """Return the fields of the detector's config that the options decide."""
    fields = {
        "input": options.input.lower(),
        "modalities": parse_list(options.modalities),
        "unet": "paper" if options.preset == "paper" else "tiny",
        "error": {"window": options.median, "how": "median" if options.median > 1 else "mean"}
        | {"expected": options.expected_error},
    }
    given = {"target": options.target.lower(), "imagination": options.imagination}
    return fields | {k: v for k, v in given.items() if v}


def check_method(options: TrainOptions) -> "Detector":
    """Return an untrained detector of the method, so that what does not fit it is refused before the data are read.

    Raises:
        ValueError: if the method is unknown, its config refuses a value, or it has no use for an option.
    """
    from mmccd.registry import new_detector

    method, fields = find_method(options.method), detector_fields(options)
    target = next((m for m in (*fields["modalities"], "t1", "t2") if m != fields["input"]), "t1")
    detector = new_detector(method.name, options.seed, **{"target": target} | fields, size=128)
    if method.paired and not options.target:
        raise ValueError(f"{method.name} goes to another modality: say to which by --target")
    if options.target and not method.paired:
        raise ValueError(f"{method.name} takes one modality only: leave --target out")
    if options.modalities and not hasattr(detector.config, "modalities"):
        raise ValueError(f"{method.name} knows one pair of modalities only: leave --modalities out")
    if (options.median > 1 or options.expected_error) and not hasattr(detector.config, "error"):
        raise ValueError(f"{method.name} always shows the error itself: leave --median and --expected-error out")
    if options.imagination and not hasattr(detector.config, "imagination"):
        raise ValueError(f"{method.name} hides nothing: leave --imagination out")
    for name, what in (("decoder", "decoder"), ("start", "networks from their beginning")):
        if getattr(options, name) and not method.decoder_from:
            raise ValueError(f"{method.name} learns its own {what}: leave --{name} out")
    return detector


def load_other(name: str, input: str, target: str) -> "Detector":
    """Return the trained detector that a network is taken from.

    Args:
        name: a method whose weights come with the package, a packaged name, or a folder.
        input: modality that it takes, and that its decoder leads to.
        target: modality that its decoder starts from.
    """
    from mmccd.detector import load_detector

    short = name in trainable_methods() and not (Path(name) / "config.json").is_file()
    return load_detector(f"{name}-{input}-{target}" if short else name)


def print_run(options: TrainOptions, record: dict[str, Any]) -> None:
    """Print what was trained, and its last validation loss."""
    last, input, target = record["result"], options.input.lower(), options.target.lower()
    way = f"from {input} to {target}" if target else f"on {input}"
    show(
        f"{options.method} {way}: {counted(last['step'], 'step')}, validation loss {last['val_loss']:.4g}, "
        f"in {options.out}"
    )


@command(
    TrainOptions,
    epilog="Example: mmccd train cycle slices.zarr --input flair --target t2 --out run. "
    "Then: mmccd detect CASE --weights run --out results",
    needs="train",
)
def train(options: TrainOptions) -> None:
    """Train a detector on the healthy slices of a store."""
    from mmccd.registry import new_detector
    from mmccd.training.data import store_data
    from mmccd.training.ranks import is_first_process
    from mmccd.training.run import train as fit
    from mmccd.training_loop import OPTIONS, make_config

    if options.in_memory not in IN_MEMORY:
        raise ValueError(f"--in-memory is auto, yes or no, got {options.in_memory!r}")
    config = make_config(options.preset, **{k: getattr(options, k) for k in OPTIONS})
    first, fields = check_method(options), detector_fields(options)
    input, target = fields["input"], fields.get("target", "")
    pair = first.config.input, getattr(first.config, "target", "")
    cycle, other = (load_other(name, *pair) if name else None for name in (options.decoder, options.start))
    lists = options.train_list, options.val_list
    chosen = options.seed, fields["modalities"], options.subjects, IN_MEMORY[options.in_memory]
    data, val = store_data(options.store, input, target, options.val, *lists, *chosen)
    detector = new_detector(
        options.method, options.seed, **fields, **{k: data.recipe[k] for k in ("size", "fov", "normalisation")}
    )
    if cycle or other:
        from mmccd.masked_diffusion import MMCCD, load_frozen_decoder, load_start

        if cycle:
            load_frozen_decoder(cast(MMCCD, detector), cycle)
        if other:
            load_start(cast(MMCCD, detector), other)
    reading = {"workers": options.workers, "threads": options.threads}
    record = fit(detector, data, val, options.out, config, options.resume, options.device, **reading)
    if not is_first_process():
        return
    put_json(record, options.json)
    if options.json != "-":
        print_run(options, record)
