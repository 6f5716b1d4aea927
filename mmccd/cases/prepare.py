"""From cases or phantoms to a store of slices: each case is read once, and an interrupted run goes on."""

import os
import re
import shutil
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmccd import __version__
from mmccd.anatomy import MODALITIES
from mmccd.cases.case import Case
from mmccd.cases.filenames import nfc
from mmccd.cases.health import check_no_lesion
from mmccd.cases.names import find_cases
from mmccd.cases.people import check_subjects, store_subjects
from mmccd.cases.phantoms import Phantoms, phantom_places
from mmccd.cases.records import (
    FORMAT,
    Place,
    Recipe,
    in_memory,
    is_url,
    open_place,
    read_cases,
    read_store,
    recipe_checksum,
    sealed,
    slice_checks,
    store_errors,
    user_place,
)
from mmccd.cases.resume import Source, Task, check_recipe, first_modalities, lacks, source_files, unfinished
from mmccd.cases.subjects import read_subjects
from mmccd.cluster import KilledError, open_workers
from mmccd.errors import display_name, format_error
from mmccd.extras import is_installed
from mmccd.files import folder_lock, output_folder, remove_leftovers, swap_in, working_folder
from mmccd.intensity import BACKGROUND, DEFAULT, check_method, normalise
from mmccd.phantom import make_phantom
from mmccd.progress import track
from mmccd.runtime import interrupts_later, single_thread
from mmccd.slices import (
    FOV,
    MIN_BRAIN,
    areas,
    choose_slices,
    field_of_view,
    resize,
    resize_labels,
    slice_places,
    to_slices,
)

LARGEST = 60000.0  # float16 ends at 65504

Raw = str | PathLike[str] | Iterable[str | PathLike[str]] | Phantoms


def make_recipe(
    size: int,
    slices: range | None,
    modalities: Sequence[str],
    tumour_free: bool,
    min_brain: float,
    healthy: bool,
    normalisation: str,
    phantom: dict[str, Any] | None = None,
    fov: float = FOV,
) -> Recipe:
    """Return how a store is made, ready for JSON, so that two stores can be compared.

    Args:
        size: pixels along each side, 8 to 1024.
        slices: places, or None for all.
        modalities: which, in order.
        tumour_free: only slices without lesion.
        min_brain: square centimetres of brain a slice needs.
        healthy: a case without segmentation is known to be healthy.
        normalisation: a name in `intensity.METHODS`.
        phantom: what phantoms were made with.
        fov: field of view, millimetres along each side, 20 to 1000.

    Raises:
        ValueError: if a value is not allowed.
    """
    if isinstance(size, bool) or not isinstance(size, int) or not 8 <= size <= 1024:
        raise ValueError(f"The size must be a whole number from 8 to 1024 pixels, got {size}.")
    if slices is not None and (not isinstance(slices, range) or slices.step != 1 or not len(slices)):
        raise ValueError(f"The slices must be a range such as range(70, 90) or None for all, got {slices!r}.")
    if not min_brain >= 0:
        raise ValueError(f"The least area of brain must be 0 or more square centimetres, got {min_brain}.")
    if not 20 <= fov <= 1000:
        raise ValueError(f"The field of view must be 20 to 1000 millimetres wide, got {fov}.")
    check_method(normalisation)
    unknown = [m for m in modalities if m not in MODALITIES]
    if unknown or not modalities or len(set(modalities)) < len(modalities):
        got = ", ".join(map(str, modalities)) or "none"
        raise ValueError(f"The modalities must be some of {', '.join(MODALITIES)}, each once, got {got}.")
    return dict(
        format=FORMAT,
        mmccd=__version__,
        size=size,
        fov=float(fov),
        slices=None if slices is None else [slices[0], slices[-1]],
        modalities=list(modalities),
        tumour_free=tumour_free,
        min_brain=float(min_brain),
        healthy=healthy,
        normalisation=normalisation,
        phantom=phantom,
    )


def normalised_slices(case: Case, modality: str, index: Sequence[int], method: str) -> torch.Tensor:
    """Return some slices (b 1 h w) float32, normalised by the whole brain.

    The same as `case.slices(modality, index, method)`, without scaling the other slices.
    """
    if method == "published":
        return case.slices(modality, index, method)  # its percentile depends on the background too
    volume, brain = case.volumes[modality].T, case.measured(modality).T  # as they lie in memory
    ends = np.cumsum([np.count_nonzero(page) for page in brain])
    values = normalise(volume[brain], np.ones(ends[-1], bool), method, f"{modality} of {case.id}", modality)
    out = np.full((len(index), 1, *brain.shape[1:]), -1, np.float32)
    for page, k in zip(out, index):
        page[0][brain[k]] = values[ends[k] - brain[k].sum() : ends[k]]
    return torch.from_numpy(out)


def case_arrays(case: Case, recipe: Recipe) -> tuple[np.ndarray, np.ndarray, list[list[float | None]]]:
    """Return what the store keeps of a case.

    Args:
        case: with the recipe's modalities.
        recipe: of the store.

    Returns:
        Images (n m size size) float16; masks (n 2 size size) uint8: brain, lesion; and for each slice its place,
        and square centimetres of brain and of lesion (None where not known).

    Raises:
        ValueError: if slices free of tumour are wanted and it is not known where the lesion is, or the case does not
            fit into the field of view.
    """
    if case.lesion is None and recipe["healthy"]:
        case.lesion = np.zeros_like(case.brain)
    size, slices = recipe["size"], recipe["slices"] and range(recipe["slices"][0], recipe["slices"][1] + 1)
    index = choose_slices(case, slices, recipe["tumour_free"], recipe["min_brain"])
    images = np.empty((len(index), len(recipe["modalities"]), size, size), np.float16)
    edge = BACKGROUND.get(recipe["normalisation"], -1.0)
    region = field_of_view(case.brain, case.affine, recipe["fov"], case.id)
    for j, m in enumerate(recipe["modalities"]):
        x = resize(normalised_slices(case, m, index, recipe["normalisation"]), size, edge, region)
        images[:, j] = x[:, 0].clamp(-LARGEST, LARGEST).half()
    masks = np.zeros((len(index), 2, size, size), np.uint8)
    columns: list[list[float | None]] = [slice_places(case.brain.shape, case.affine)[index].tolist()]
    for j, mask in enumerate((case.brain, case.lesion)):
        if mask is None:
            columns.append([None] * len(index))
            continue
        masks[:, j] = resize_labels(to_slices(mask, index), size, region)[:, 0] if index else 0
        columns.append(areas(mask, case.affine)[index].round(6).tolist())
    return images, masks, [list(row) for row in zip(*columns)]


@contextmanager
def put_in_place(place: Place, id: str) -> Iterator[str]:
    """Give the path in a store under which a case is to be written, and put it in its place once it is whole.

    In a folder it is written aside, so that a case is there whole or not at all; a URL knows no renaming.
    """
    if is_url(place):
        yield id
        return
    with working_folder(place) as part:
        yield f"{part.name}/{id}"
        swap_in(part / id, Path(place) / id, part)


def write_case(place: Place, id: str, images: np.ndarray, masks: np.ndarray, record: dict[str, Any]) -> None:
    """Write a case into a store; the record, with checksums of the slices, comes last: half a case does not count.

    Args:
        place: of the store.
        id: of the case.
        images: (n m size size) float16.
        masks: (n 2 size size) uint8.
        record: its rows and source, and the checksum of the recipe.

    Raises:
        ValueError: if it cannot be written.
    """
    import zarr

    store, stored = open_place(place, write=True), 0
    with interrupts_later(), store_errors(place), put_in_place(place, id) as path:  # zarr writes in threads
        group = zarr.create_group(store, path=path, overwrite=True)  # whatever half a case was there
        for name, a in dict(images=images, masks=masks).items():
            if not len(a):
                continue
            shape: Any = dict(chunks=(1, *a.shape[1:]), shards=a.shape)
            whole: Any = {"write_empty_chunks": True}  # a chunk that is not there is a chunk that is lost
            array = zarr.create_array(store, name=f"{path}/{name}", data=a, **shape, overwrite=True, config=whole)
            stored += array.nbytes_stored()
        checks = slice_checks(images, masks)
        more = {"id": id, "checks": checks, "bytes": int(stored), "mmccd": __version__}
        group.attrs.put(sealed("case", record | more))


def load_source(source: Source, recipe: Recipe) -> Case:
    """Read or make one case.

    Raises:
        ValueError: if the case cannot be read.
    """
    if not isinstance(source, dict):
        case = Case.load(source, recipe["modalities"])
        if recipe["healthy"]:
            check_no_lesion(case, source)
        return case
    how, slices = recipe["phantom"], recipe["slices"] and range(recipe["slices"][0], recipe["slices"][1] + 1)
    wanted = phantom_places(how, source["index"], slices)
    subject = make_phantom(source["kind"], how["seed"], source["index"], wanted, False, tuple(how.get("varied", ())))
    return Case.from_phantom(subject, modalities=recipe["modalities"])


def prepare_one(task: Task, place: Place, recipe: Recipe) -> dict[str, Any]:
    """Bring one case from its files into the store.

    Returns:
        {"id", "slices"} and perhaps "notes", or {"id", "error"} where the case cannot be used.

    Raises:
        ValueError: if the store cannot be written.
    """
    id, source = task
    try:
        if re.search(r"[\\/]|^\.|^(zarr|subjects)\.json$", id, re.IGNORECASE):
            raise ValueError(f"{id!r} cannot be the name of a case in a store; rename it.")
        origin = source_files(source, recipe)
        case = load_source(source, recipe)
        images, masks, rows = case_arrays(case, recipe)
    except Exception as error:
        return {"id": id, "error": format_error(error, id)}
    notes = {"notes": case.notes} if case.notes else {}
    write_case(place, id, images, masks, {"rows": rows, "source": origin, "recipe": recipe_checksum(recipe), **notes})
    return {"id": id, "slices": len(rows), **notes}


def count_processes(jobs: int, n: int, place: Place) -> int:
    """Return how many processes to use, at least 1: a new one spends seconds on imports, so few cases do without.

    Args:
        jobs: asked for; 0 leaves the choice to us.
        n: cases to do.
        place: of the store.
    """
    if in_memory(place):
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(jobs or (cores if n >= 16 and is_installed("distributed") else 1), n))


def run_tasks(
    tasks: Sequence[Task], place: Place, recipe: Recipe, jobs: int = 1, scheduler: str = ""
) -> Generator[dict[str, Any]]:
    """Prepare the cases, and yield what `prepare_one` returns, in any order.

    Args:
        tasks: what to do.
        place: of the store.
        recipe: of the store.
        jobs: processes; 1: this one.
        scheduler: of the workers that do it instead, as for `cluster.open_workers`.

    Raises:
        ValueError: if the store cannot be written.
    """
    if jobs == 1 and not scheduler:
        with single_thread():
            yield from (prepare_one(task, place, recipe) for task in tasks)
        return
    if scheduler:
        tasks = [(id, source if isinstance(source, dict) else os.path.abspath(source)) for id, source in tasks]
        place = place if is_url(place) else Path(place).absolute()
    paths = [place, *(source for _, source in tasks)]
    seen = [p for p in paths if not isinstance(p, dict) and not is_url(p)]
    with open_workers(jobs, scheduler, paths=seen) as workers:
        for id, done in workers.results((task[0], prepare_one, task, place, recipe) for task in tasks):
            try:
                yield done.result()
            except KilledError as error:
                yield {"id": id, "error": str(error)}


def plan(
    raw: Raw, place: Place, modalities: str | Iterable[str] | None, left_out: list[str] | None = None, **options: Any
) -> tuple[Sequence[Task], Recipe, bool]:
    """Return what is to be done, before anything is: the tasks, the recipe, and whether the store is new.

    Args:
        raw: path or paths as `find_cases` takes them, or `Phantoms`.
        place: of the store.
        modalities: which, or None.
        left_out: is given a sentence on each image that belongs to no case.
        **options: of `make_recipe`.

    Raises:
        ValueError: if there is nothing to do, or the store was made in another way.
    """
    old = read_store(place)
    tasks: Sequence[Task] = raw.tasks() if isinstance(raw, Phantoms) else find_cases(raw, left_out)
    if modalities is None:
        from_data = MODALITIES if isinstance(raw, Phantoms) else first_modalities(tasks, left_out)
        modalities = old["modalities"] if old else from_data
    phantom = raw.how if isinstance(raw, Phantoms) else None
    wanted = [modalities] if isinstance(modalities, str) else list(modalities)
    recipe = make_recipe(modalities=wanted, phantom=phantom, **options)
    if old and old["format"] != FORMAT:
        raise ValueError(
            f"The store {display_name(place)} was made by an earlier version of mmccd: it can be trained on, but "
            "nothing more can be put into it; choose another place."
        )
    if old:
        check_recipe(old, recipe, place)
    return tasks, old or recipe, not old


@contextmanager
def store_group(place: Place, recipe: Recipe, new: bool) -> Iterator[None]:
    """Begin a store where there is nothing yet (`new`); take away again what was made if no slice got into it.

    One process at a time works on a store in a folder. What a killed one left half written is removed.

    Raises:
        ValueError: if another process prepares the same store, or it cannot be written.
    """
    import zarr

    if is_url(place):
        with interrupts_later(), store_errors(place):
            if new:
                zarr.create_group(open_place(place, write=True), attributes=sealed("recipe", recipe))  # in one piece
        yield
        return
    with output_folder(place) as folder, folder_lock(folder, "preparing a store"):
        if new != (read_store(place) is None):
            raise ValueError(f"Another process has just begun the store {display_name(place)}: run it again to go on.")
        remove_killed(folder)
        with interrupts_later(), store_errors(place):
            if new:
                zarr.create_group(open_place(place, write=True), attributes=sealed("recipe", recipe))
        try:
            yield
        finally:
            remove_killed(folder)
            cases = read_cases(place, recipe)
            if new and not any(r["rows"] for r in cases.records.values()):
                for id in cases.records:
                    shutil.rmtree(folder / id)
                (folder / "zarr.json").unlink()


def remove_killed(folder: Path) -> None:
    """Remove what processes that were killed left half written in a store."""
    remove_leftovers(folder)
    with store_errors(folder):
        for path in folder.glob("zarr.*.partial"):
            path.unlink()  # of zarr


def prepare(
    raw: Raw,
    store: Place,
    size: int = 64,
    slices: range | None = None,
    modalities: str | Iterable[str] | None = None,
    tumour_free: bool = False,
    min_brain: float = MIN_BRAIN,
    healthy: bool = False,
    normalisation: str = DEFAULT,
    jobs: int = 1,
    progress: bool = True,
    fov: float = FOV,
    subjects: str | PathLike[str] | None = None,
    scheduler: str = "",
) -> dict[str, Any]:
    """Write a store of slices for training; goes on where an earlier run stopped.

    Args:
        raw: a case folder, a folder of cases, or several; or `Phantoms`.
        store: where to: a path, or an fsspec URL such as s3://bucket/x.
        size: pixels along each side.
        slices: axial places (see `slices.slice_places`); None: all with enough brain, as detection has it.
        modalities: which; None takes those of the first case.
        tumour_free: only slices without lesion (a dataset can also choose later).
        min_brain: square centimetres of brain a slice needs.
        healthy: cases without segmentation are known to be healthy.
        normalisation: a name in `intensity.METHODS`.
        jobs: processes, 0 chooses; unless it is 1, a script must call this under `if __name__ == "__main__":`.
            More than one need Dask distributed (`pip install 'mmccd[cluster]'`).
        progress: a bar on a terminal, elsewhere a line now and then.
        fov: field of view, millimetres along each side, centred on the brain; see `slices.field_of_view`.
        subjects: file that says who is who (see `subjects.read_subjects`); the store keeps it for `train`.
        scheduler: address or file of a Dask scheduler whose workers do it instead of processes here; all of them have
            to see cases and store under the same path.

    Returns:
        "store", "new" and "kept" (cases), "failed" (id and error each), "notes" (sentences on what one should know),
        "cases", "slices", "ill" and "unknown" (slices with lesion, and without a segmentation), "bytes", "recipe".

    Raises:
        ValueError: if nothing can be prepared, the store was made in another way, or cannot be written.
    """
    options = dict(size=size, fov=fov, slices=slices, tumour_free=tumour_free, min_brain=min_brain, healthy=healthy)
    store, left_out, people = user_place(store), [], read_subjects(subjects) if subjects else {}
    tasks, recipe, new = plan(raw, store, modalities, left_out, normalisation=normalisation, **options)
    with store_group(store, recipe, new):
        before = read_cases(store, recipe)
        if spelled := {nfc(id): id for id in before.records if nfc(id) != id}:  # by an earlier version on macOS
            tasks = [(spelled.get(id, id), source) for id, source in tasks]
        left_out += check_subjects(people, {*before.records, *(id for id, _ in tasks)}, subjects)
        todo, kept, failed, notes = unfinished(tasks, store, recipe, before, progress)
        jobs, elsewhere = count_processes(jobs, len(todo), store), scheduler if todo and not in_memory(store) else ""
        done = len(tasks) - len(todo)
        with closing(run_tasks(todo, store, recipe, jobs, elsewhere)) as results:
            for r in track(results, "prepare", "case", total=len(tasks), first=done, show=progress):
                failed += [r] if "error" in r else []
                notes += [f"{r['id']}: {note}" for note in r.get("notes", ())]
        failed.sort(key=lambda r: r["id"])
        records = read_cases(store, recipe).records
        rows = [row for r in records.values() for row in r["rows"]]
        if records and not rows:
            cases = f"{len(records)} case{'s' * (len(records) != 1)}"
            raise ValueError(
                f"No slice of {cases} is fit for a store: all show lesion or have too little brain; "
                "ask for other slices, or for less brain."
            )
        store_subjects(store, people)
    return {
        "store": str(store),
        "new": len(tasks) - len(kept) - len({f["id"] for f in failed} & {id for id, _ in tasks}),
        "kept": len(kept),
        "failed": failed,
        "notes": left_out + notes + lacks(records),
        "cases": len(records),
        "slices": len(rows),
        "ill": sum(bool(row[2]) for row in rows),
        "unknown": sum(row[2] is None for row in rows),
        "bytes": sum(r["bytes"] for r in records.values()),
        "recipe": recipe,
    }
