""""""

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import typer

from mmccd.cli.app import app
from mmccd.cli.options import Device, Json, Seed, check_json, parse_list, put_json
from mmccd.runtime import Interrupted, pick_device, sigterm_as_interrupt


def asked_plan(
    a,  # what was asked for, by option
):  # a `benchmark.Plan`
    "Words into a plan."
    if bool(a.store) != bool(a.lists):
        raise ValueError("--store and --lists belong together: who of the store learns, validates and is tested?")
    if a.test_store and not a.store:
        raise ValueError("--test-store goes with --store: leave it out for phantoms")
    from mmccd.benchmark.plan import DEFAULT_ROWS, WAYS, Plan, ScanSource, split_lists

    pairs = WAYS if a.pairs == "all" else tuple(tuple(p.split("-")) for p in parse_list(a.pairs))
    scans = ScanSource(a.store, test_store=a.test_store, **split_lists(a.lists)) if a.store else None
    return Plan(
        a.out,
        a.preset,
        pairs,
        tuple(parse_list(a.methods)) or DEFAULT_ROWS,
        a.shipped,
        scans,
        a.sampler,
        a.seed,
        pick_device(a.device),
    )


def benchmark_line(
    a,  # what was asked for, by option
) -> str:  # that gives the same numbers again
    "The command, for the record."
    usual = dict(store="", lists="", test_store="", pairs="all", methods="", shipped="no", sampler="fast", seed=0)
    more = "".join(f" --{k.replace('_', '-')} {getattr(a, k)}" for k, v in usual.items() if getattr(a, k) != v)
    return f"mmccd benchmark --preset {a.preset}{more} --out {a.out}"


def run_benchmark(
    asked: dict,  # what was asked for, by option
):
    "Make, train, measure, write; an interrupted run says how to go on."
    a = SimpleNamespace(**asked)
    check_json(a.json)
    plan = asked_plan(a)
    from mmccd.benchmark.run import FILES, check_scans, plan_text
    from mmccd.benchmark.run import run_benchmark as run
    from mmccd.benchmark.tables import table_two

    if a.plan:
        if plan.scans:
            check_scans(plan)
        return print(plan_text(plan))
    try:
        with sigterm_as_interrupt():
            result = run(plan, a.jobs, True, benchmark_line(a))
    except KeyboardInterrupt as e:
        raise Interrupted("stopped; the same command goes on") from e
    put_json(result, a.json)
    if a.json == "-":
        return
    caption, head, rows = table_two(result)
    width = max(len(r[0]) for r in rows)
    print(
        caption,
        "",
        "  ".join([" " * width, *head[1:]]),
        *("  ".join([r[0].ljust(width), *(c.ljust(len(h)) for c, h in zip(r[1:], head[1:]))]).rstrip() for r in rows),
        "",
        f"all tables in {plan.out}/{FILES['markdown']}",
        sep="\n",
    )


@app.command(
    epilog="Example: mmccd benchmark --plan. Then: mmccd benchmark --out tables --jobs 2. Scans: mmccd benchmark --store slices.zarr --lists brats2021 --preset gpu"
)
def benchmark(
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Folder of the benchmark; made where missing. Where it was stopped, it goes on."
        ),
    ] = Path("benchmark"),
    preset: Annotated[
        str,
        typer.Option(
            metavar="smoke|cpu|gpu",
            help="smoke (tiny phantoms and networks, minutes), cpu (every network until it has converged, hours on two cores), gpu (the paper's size and 100,000 steps for each network).",
        ),
    ] = "cpu",
    store: Annotated[
        str,
        typer.Option(
            metavar="STORE",
            help="Store of scans to learn from, as prepare leaves it.  [default: phantoms are made]",
            show_default=False,
        ),
    ] = "",
    lists: Annotated[
        str,
        typer.Option(
            metavar="FOLDER|brats2021",
            help="With --store: folder with train.txt, val.txt and test.txt, names one a line; or brats2021, the published ones.",
            show_default=False,
        ),
    ] = "",
    test_store: Annotated[
        str,
        typer.Option(
            metavar="STORE",
            help="With --store: the same scans at the size that is scored.  [default: that of --store]",
            show_default=False,
        ),
    ] = "",
    pairs: Annotated[
        str,
        typer.Option(
            metavar="all|flair-t2,...",
            help="Input and target, with commas; the first is that of Table 1. One alone: networks for it alone.",
        ),
    ] = "all",
    methods: Annotated[
        str,
        typer.Option(
            metavar="dae,cycle,...",
            help="Which of ae, vae, dae, ddpm, cycle, masked, mmccd; threshold and everything positive are always there.  [default: all but masked]",
            show_default=False,
        ),
    ] = "",
    shipped: Annotated[
        str,
        typer.Option(
            metavar="no|also|only",
            help="The weights that come with mmccd: not at all, beside the others, or alone (nothing is trained).",
        ),
    ] = "no",
    sampler: Annotated[
        str,
        typer.Option(
            metavar="fast|paper",
            help="How MMCCD and the masked U-Net look at a slice: fast, at most 36 evaluations; paper: MMCCD as published, up to 12,928.",
        ),
    ] = "fast",
    jobs: Annotated[int, typer.Option(min=1, help="Processes: as many trainings or measurements side by side.")] = 1,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be made, trained and measured, and do nothing.")
    ] = False,
    seed: Seed = 0,  # of split, first weights, order and noise; the phantoms are the preset's
    device: Device = "auto",  # where networks run
    json: Json = "",  # file, or - for standard output
):
    "Make the paper's tables: train what is missing, measure."
    return run_benchmark(locals())
