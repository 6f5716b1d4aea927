"""`mmccd benchmark`: the paper's tables."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from mmccd.cli.app import command, command_line, interrupted_as
from mmccd.cli.options import Device, Options, Scheduler, Seed, Subjects, parse_list, put_json, show
from mmccd.registry import METHODS, table_methods
from mmccd.runtime import pick_device

if TYPE_CHECKING:
    from mmccd.benchmark.plan import Plan


CHOICE = [name for name in table_methods() if METHODS[name].trainable]


@dataclass(frozen=True)
class BenchmarkOptions(Options):
    """What to measure, on what, and with which networks."""

    command: ClassVar[str] = "benchmark"
    result: ClassVar[frozenset[str]] = frozenset(("command", "preset", "pairs"))

    preset: Annotated[
        str,
        typer.Option(
            metavar="smoke|cpu|gpu",
            help="smoke (tiny phantoms and networks, minutes), cpu (every network until it has converged, hours on two "
            "cores), gpu (the paper's size and 100,000 steps for each network).",
        ),
    ] = "cpu"
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Folder of the benchmark; made where missing. Where it was stopped, it goes on."
        ),
    ] = Path("benchmark")
    store: Annotated[
        str,
        typer.Option(
            metavar="STORE",
            help="Store of scans to learn from, as prepare leaves it.  [default: phantoms are made]",
            show_default=False,
        ),
    ] = ""
    lists: Annotated[
        str,
        typer.Option(
            metavar="FOLDER|brats2021",
            help="With --store: folder with train.txt, val.txt and test.txt, names one a line; or brats2021, the "
            "published ones.",
            show_default=False,
        ),
    ] = ""
    test_store: Annotated[
        str,
        typer.Option(
            metavar="STORE",
            help="With --store: the same scans at the size that is scored.  [default: that of --store]",
            show_default=False,
        ),
    ] = ""
    subjects: Subjects = None
    pairs: Annotated[
        str,
        typer.Option(
            metavar="all|flair-t2,...",
            help="Input and target, with commas; the first is that of Table 1. One alone: networks for it alone.",
        ),
    ] = "all"
    methods: Annotated[
        str,
        typer.Option(
            metavar="dae,cycle,...",
            help=f"Which of {', '.join(CHOICE)}; threshold and everything positive are always there.  "
            f"[default: all but {', '.join(set(CHOICE) - set(table_methods(by_default=True)))}]",
            show_default=False,
        ),
    ] = ""
    shipped: Annotated[
        str,
        typer.Option(
            metavar="no|also|only",
            help="The weights that come with mmccd: not at all, beside the others, or alone (nothing is trained).",
        ),
    ] = "no"
    sampler: Annotated[
        str,
        typer.Option(
            metavar="fast|paper",
            help="Which masks MMCCD and the masked U-Net use for a slice: fast, at most 36 evaluations; paper: MMCCD "
            "as published, up to 12,928.",
        ),
    ] = "fast"
    jobs: Annotated[
        int,
        typer.Option(
            min=1,
            help="Processes: as many trainings or measurements side by side. More than 1 need pip install "
            "'mmccd[cluster]'.",
        ),
    ] = 1
    scheduler: Scheduler = ""
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be made, trained and measured, and do nothing.")
    ] = False
    seed: Seed = 0  # of split, first weights, order and noise; the phantoms are the preset's
    device: Device = "auto"


def make_plan(options: BenchmarkOptions) -> "Plan":
    """Return the plan that the options stand for.

    Raises:
        ValueError: if the options contradict each other, or name what does not exist.
    """
    if bool(options.store) != bool(options.lists):
        raise ValueError(
            "--store and --lists belong together: which subjects of the store are for training, validation and test?"
        )
    if options.test_store and not options.store:
        raise ValueError("--test-store goes with --store: leave it out for phantoms")
    if options.subjects and not options.store:
        raise ValueError("--subjects goes with --store: leave it out for phantoms")
    from mmccd.benchmark.plan import DEFAULT_ROWS, PAIRS, Plan, ScanSource, split_lists

    pairs: Any = PAIRS if options.pairs == "all" else tuple(tuple(p.split("-")) for p in parse_list(options.pairs))
    scans = None
    if options.store:
        subjects = str(options.subjects) if options.subjects else None
        lists = split_lists(options.lists)
        scans = ScanSource(options.store, test_store=options.test_store, subjects=subjects, **lists)
    return Plan(
        out=str(options.out),
        preset=options.preset,
        pairs=pairs,
        methods=tuple(parse_list(options.methods)) or DEFAULT_ROWS,
        shipped=options.shipped,
        scans=scans,
        sampler=options.sampler,
        seed=options.seed,
        device=options.device if options.scheduler else pick_device(options.device),
    )


def print_tables(result: dict[str, Any], where: str) -> None:
    """Print the second of the paper's tables in columns, and where all of them are."""
    from mmccd.benchmark.tables import table_two

    table = table_two(result)
    head, rows = table.head, table.rows
    width = max(len(r[0]) for r in rows)
    show("\n".join([table.caption, "", "  ".join([" " * width, *head[1:]])]))
    for name, *cells in rows:
        words = [str(name).ljust(width), *(str(c).ljust(len(h)) for c, h in zip(cells, head[1:]))]
        show("  ".join(words).rstrip())
    show(f"\nall tables in {where}")


@command(
    BenchmarkOptions,
    epilog="Example: mmccd benchmark --plan. Then: mmccd benchmark --out tables --jobs 2. "
    "Scans: mmccd benchmark --store slices.zarr --lists brats2021 --preset gpu",
    needs="train",
)
def benchmark(options: BenchmarkOptions) -> None:
    """Make the paper's tables: train what is missing, measure."""
    plan = make_plan(options)
    from mmccd.benchmark.run import FILES, check_scans, describe_plan, run_benchmark

    if options.plan:
        if plan.scans:
            check_scans(plan)
        return show(describe_plan(plan))
    with interrupted_as("stopped; the same command goes on"):
        result = run_benchmark(
            plan, options.jobs, True, command_line(options, always=["preset", "out"]), options.scheduler
        )
    put_json(result, options.json)
    if options.json != "-":
        print_tables(result, f"{plan.out}/{FILES['markdown']}")
    return None
