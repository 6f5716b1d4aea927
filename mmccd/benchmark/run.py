"""The benchmark from its first phantom to its tables; stopped at any point, the same call goes on."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmccd.anatomy import KINDS
from mmccd.benchmark.dataset import (
    forget_data,
    load_evaluation_set,
    load_training_data,
    make_stores,
    store_paths,
    subject_split,
)
from mmccd.benchmark.figures import cost_figure, maps_figure, recall_figure, size_figure
from mmccd.benchmark.networks import entries, load_entry, run_folder, untrained
from mmccd.benchmark.plan import Plan, check_plan, stopping_rule, write_or_check_plan
from mmccd.benchmark.result import collect_result, read_curve
from mmccd.benchmark.schedule import run_tasks
from mmccd.benchmark.tables import all_tables
from mmccd.cases.phantoms import Phantoms
from mmccd.cases.store import SliceStore
from mmccd.files import folder_lock, output_folder, remove_leftovers, to_json, write_atomic, writing
from mmccd.intensity import DEFAULT
from mmccd.registry import METHODS
from mmccd.runtime import counted, say
from mmccd.slices import FOV
from mmccd.tables import latex_table
from mmccd.training.record import read_record

FILES = {"json": "benchmark.json", "markdown": "tables.md", "latex": "tables.tex"}
"""Names of the files that a benchmark leaves, beside its figures."""
FIGURES = {
    "maps": maps_figure,
    "precision_recall": lambda plan, result: recall_figure(result),
    "dice_by_size": lambda plan, result: size_figure(result),
    "ap_evaluations": lambda plan, result: cost_figure(result),
}
"""Name of each figure's PNG, and what draws it from plan and result."""


def write_files(plan: Plan, result: dict[str, Any]) -> None:
    """Write figures and tables, and the JSON last: where it is, everything is."""
    from mmccd.viz import save_png

    out = Path(plan.out)
    with writing(out):
        for name, draw in FIGURES.items():
            save_png(draw(plan, result), out / f"{name}.png")
        write_atomic(out / FILES["markdown"], all_tables(result).encode())
        write_atomic(out / FILES["latex"], all_tables(result, latex_table).encode())
        write_atomic(out / FILES["json"], to_json(result).encode())


def check_scans(plan: Plan) -> None:
    """Make sure that lists, stores and modalities of a plan for scans fit each other; writes nothing.

    Raises:
        ValueError: They do not.
    """
    paths = store_paths(plan)
    for path in paths.values():
        missing = [m for m in plan.modalities if m not in SliceStore(path).recipe["modalities"]]
        if missing:
            raise ValueError(f"the store {path} has no {missing[0]}: prepare it with that, or ask for other --pairs")
    learn, test = (SliceStore(paths[k]).recipe["normalisation"] for k in ("learn", "test"))
    if learn != test:
        raise ValueError(
            f"the store to learn from was made with normalisation {learn} and that to test on with {test}: "
            "prepare both the same way"
        )
    check_data(plan)


def scan_notes(plan: Plan) -> list[str]:
    """What one should know of the stores of scans: cases that are not finished, or that nothing was checked."""
    paths = store_paths(plan).values() if plan.scans else ()
    return list(dict.fromkeys(note for path in paths for note in SliceStore(path).notes))


def check_data(plan: Plan) -> None:
    """Read, afresh, all that will be needed, so that what is wrong with it shows before hours of training.

    Raises:
        ValueError: Something is missing or does not fit.
    """
    forget_data()
    load_evaluation_set(plan)
    if plan.trained:
        load_training_data(plan)
    for e in entries(plan):
        if e.shipped:
            load_entry(plan, e)


@contextmanager
def benchmark_folder(plan: Plan) -> Generator[Path]:
    """The folder of a benchmark, made where missing and locked against other processes; clear of what was killed.

    Raises:
        ValueError: It holds something else or another plan, cannot be written, or another process works in it.
    """
    with output_folder(plan.out) as out:
        check_plan(plan, out)  # before a lock is left in a folder that is not a benchmark's
        with folder_lock(out, "running a benchmark"):
            for folder in (out, out / "scores"):
                remove_leftovers(folder)
            yield out


def run_benchmark(
    plan: Plan, jobs: int = 1, progress: bool = True, command: str = "", scheduler: str = ""
) -> dict[str, Any]:
    """Make the paper's tables: make phantoms, train what is missing, measure, write. Goes on where it was stopped.

    Example:
        `run_benchmark(Plan("tables", preset="smoke"))` leaves tables and figures in the folder `tables`, in minutes.

    Args:
        plan: What to do.
        jobs: Processes; unless it is 1, a script must call this under `if __name__ == "__main__":`.
        progress: Say on standard error what is going on.
        command: The command line that was typed, for the record.
        scheduler: Address or file of a Dask scheduler whose workers do it instead of processes here; all of them have
            to see the plan's folders under the same path. With the plan's device `"auto"` each takes its fastest.

    Returns:
        What benchmark.json holds.

    Raises:
        ValueError: Data, weights or folder do not fit the plan, or something could not be written.
        KeyboardInterrupt: It was stopped; what is done is kept.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be 1 or more, got {jobs}")
    if plan.scans:
        check_scans(plan)  # before anything is written
    with benchmark_folder(plan) as out:
        write_or_check_plan(plan, out)
        make_stores(plan, jobs, progress, scheduler)
        check_data(plan)
        notes = scan_notes(plan)
        for note in notes if progress else ():
            say(note)
        found = run_tasks(plan, jobs, progress, scheduler)
        result = collect_result(plan, found, command) | ({"notes": notes} if notes else {})
        write_files(plan, result)
    return result


def count_phantoms(phantoms: Phantoms) -> int:
    """How many subjects these are."""
    return sum(getattr(phantoms, kind) for kind in KINDS)


def describe_phantoms(plan: Plan) -> str:
    """How many heads have to be made, and what they take on the disk."""
    r = plan.recipe
    parts = [
        (r.learn, r.size, r.train_places),
        (r.calibrate, r.scored, r.train_places),
        (r.test, r.scored, r.test_places),
    ][0 if plan.trained else 1 :]
    most = sum(count_phantoms(p) * len(places) * size**2 * (2 * len(plan.modalities) + 2) for p, size, places in parts)
    return f"make {' + '.join(str(count_phantoms(p)) for p, _, _ in parts)} phantom heads: at most {most / 1e9:.1g} GB"


def describe_training(plan: Plan, method: str) -> str:
    """What a training takes, and how far it has got."""
    if plan.scans:
        recipe = SliceStore(store_paths(plan)["learn"]).recipe
    else:
        recipe = {"size": plan.recipe.size, "fov": FOV, "normalisation": DEFAULT}
    count, t = sum(p.numel() for p in untrained(plan, method, recipe).parameters()), plan.training
    folder = run_folder(plan, method)
    done = ""
    if (record := read_record(folder)).get("status") == "done":
        done = f", done after {record['result']['step']:,}"
    elif (folder / "log.csv").exists():
        done = f", {read_curve(folder, validated=False)['rows'][-1][0]:,} done"
    steps = f"{'at most ' * bool(t.patience)}{t.steps:,} steps of {t.batch_size} slices of {recipe['size']} pixels"
    return f"train {METHODS[method].title}: {count / 1e6:.2g} M parameters, {steps}{done}"


def describe_plan(plan: Plan) -> str:
    """What would be made, trained and measured, and what it takes, a line each; nothing is done."""
    r, rule = plan.recipe, stopping_rule(plan.training)
    lines = [] if plan.scans else [describe_phantoms(plan)]
    lines += [describe_training(plan, m) for m in plan.training_order]
    tested = len(subject_split(plan)["test"]) if plan.scans else count_phantoms(r.test)
    lines.append(f"measure {counted(len(entries(plan)), 'line')} on {counted(tested, 'subject')}, on {plan.device}")
    if plan.trained:
        lines.append(f"a training is {rule}" if plan.training.patience else f"trainings: {rule}")
    return "\n".join(lines)
