""""""

from pathlib import Path

from mmccd.benchmark.dataset import load_evaluation_set, load_training_data, make_stores, places, subject_split
from mmccd.benchmark.figures import cost_figure, maps_figure, recall_figure, size_figure
from mmccd.benchmark.measure import detector_of, entries, run_folder, untrained
from mmccd.benchmark.plan import rule, write_or_check_plan
from mmccd.benchmark.result import curve_of, whole_result
from mmccd.benchmark.schedule import work_off
from mmccd.benchmark.tables import all_tables
from mmccd.cases.store import SliceStore
from mmccd.files import output_folder, to_json, write_atomic, writing
from mmccd.intensity import DEFAULT
from mmccd.phantom import KINDS
from mmccd.registry import METHODS
from mmccd.runtime import counted
from mmccd.tables import latex
from mmccd.training.record import read_record

FILES = {"json": "benchmark.json", "markdown": "tables.md", "latex": "tables.tex"}


FIGURES = {
    "maps": maps_figure,
    "precision_recall": recall_figure,
    "dice_by_size": size_figure,
    "ap_evaluations": cost_figure,
}


def write_all(
    plan,  # a `Plan`
    result,  # from `whole_result`
):
    "Tables and figures, and the JSON last: where it lies, all is done."
    from mmccd.viz import save_png

    out = Path(plan.out)
    with writing(out):
        for name, draw in FIGURES.items():
            save_png(draw(plan, result) if draw is maps_figure else draw(result), out / f"{name}.png")
        write_atomic(out / FILES["markdown"], all_tables(result).encode())
        write_atomic(out / FILES["latex"], all_tables(result, latex).encode())
        write_atomic(out / FILES["json"], to_json(result).encode())


def check_scans(
    plan,  # a `Plan` for scans
):
    "Refuse lists, stores and modalities that do not fit each other."
    for name, place in places(plan).items():
        missing = [m for m in plan.modalities if m not in SliceStore(place).recipe["modalities"]]
        if missing:
            raise ValueError(f"the store {place} has no {missing[0]}: prepare it with that, or ask for other --pairs")
    a, b = (SliceStore(places(plan)[k]).recipe["normalisation"] for k in ("learn", "test"))
    if a != b:
        raise ValueError(
            f"the store to learn from was made with normalisation {a} and that to test on with {b}: prepare both the same way"
        )
    check_all(plan)


def check_all(
    plan,  # a `Plan` whose stores are there
):
    "Read all that will be needed, so that what is wrong with it is said before hours of training."
    load_evaluation_set.cache_clear()
    load_training_data.cache_clear()
    load_evaluation_set(plan)
    if plan.trained:
        load_training_data(plan)
    for e in entries(plan):
        if e.shipped:
            detector_of(plan, e)


def run_benchmark(
    plan,  # a `Plan`
    jobs: int = 1,  # processes; unless it is 1, a script must call this under `if __name__ == "__main__":`
    progress: bool = True,  # on standard error
    command: str = "",  # for the record
) -> dict:  # what benchmark.json holds
    "The paper's tables: make phantoms, train what is missing, measure, write. Goes on where it was stopped."
    if jobs < 1:
        raise ValueError(f"jobs must be 1 or more, got {jobs}")
    if plan.scans:
        check_scans(plan)  # before anything is written
    with output_folder(plan.out) as out:
        write_or_check_plan(plan, out)
        make_stores(plan, jobs, progress)
        check_all(plan)
        found = work_off(plan, jobs, progress)
        write_all(plan, result := whole_result(plan, found, command))
    return result


def so_far(
    plan,  # a `Plan`
    method: str,  # trained in it
) -> str:
    "How far is a training?"
    if (record := read_record(folder := run_folder(plan, method))).get("status") == "done":
        return f", done after {record['result']['step']:,}"
    return f", {curve_of(folder, True)['rows'][-1][0]:,} done" if (folder / "log.csv").exists() else ""


def plan_text(
    plan,  # a `Plan`
) -> str:  # lines
    "What would be made, trained and measured, and what it takes; nothing is done."
    r, t = plan.recipe, plan.training
    store = SliceStore(places(plan)["learn"]).recipe if plan.scans else {"size": r.size, "normalisation": DEFAULT}

    def n(p):
        return sum(getattr(p, k) for k in KINDS)

    parts = [(r.learn, r.size, r.height), (r.calibrate, r.scored, r.height), (r.test, r.scored, r.places)][
        0 if plan.trained else 1 :
    ]
    most = sum(n(p) * len(z) * size**2 * (2 * len(plan.modalities) + 2) for p, size, z in parts)
    lines = (
        []
        if plan.scans
        else [f"make {' + '.join(str(n(p)) for p, _, _ in parts)} phantom heads: at most {most / 1e9:.1g} GB"]
    )
    decoders = {METHODS[m].decoder_from for m in plan.trained}
    for m in sorted(plan.trained, key=lambda m: m not in decoders):
        count = sum(p.numel() for p in untrained(plan, m, store).parameters())
        lines.append(
            f"train {METHODS[m].title}: {count / 1e6:.2g} M parameters, {'at most ' * bool(t.patience)}{t.steps:,} steps of {t.batch_size} slices of {store['size']} pixels{so_far(plan, m)}"
        )
    tested = len(subject_split(plan)["test"]) if plan.scans else n(r.test)
    return "\n".join(
        [
            *lines,
            f"measure {counted(len(entries(plan)), 'line')} on {counted(tested, 'subject')}, on {plan.device}",
            *([f"a training is {rule(t)}" if t.patience else f"trainings: {rule(t)}"] if plan.trained else []),
        ]
    )
