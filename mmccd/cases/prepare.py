""""""

import json
import os
import re
from concurrent.futures import as_completed
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from mmccd import __version__
from mmccd.cases.case import Case
from mmccd.cases.names import choose_files, find_cases
from mmccd.cases.phantoms import Phantoms
from mmccd.cases.store import FORMAT, is_url, open_place, read_records, read_store, store_errors
from mmccd.errors import display_name, format_error
from mmccd.intensity import BACKGROUND, DEFAULT, check_method, normalise
from mmccd.phantom import MODALITIES, VERSION, make_phantom
from mmccd.pools import ProcessPool
from mmccd.runtime import single_thread
from mmccd.slices import MIN_BRAIN, SLICE_RANGE, areas, choose_slices, resize, resize_labels, slice_places, to_slices

LARGEST = 60000.0  # float16 ends at 65504


def make_recipe(
    size: int,  # pixels along each side, from 8
    slices,  # a range of places, or None for all
    modalities,  # which, in order
    tumour_free: bool,  # only slices without lesion
    min_brain: float,  # square centimetres a slice needs
    healthy: bool,  # a case without segmentation is known to be healthy
    normalisation: str,  # method
    phantom=None,  # what phantoms were made with
) -> dict:  # JSON-able
    "How a store is made; two stores of one recipe can be compared."
    if isinstance(size, bool) or not isinstance(size, int) or not 8 <= size <= 1024:
        raise ValueError(f"The size must be a whole number from 8 to 1024 pixels, got {size}.")
    if slices is not None and (not isinstance(slices, range) or slices.step != 1 or not len(slices)):
        raise ValueError(f"The slices must be a range such as range(70, 90) or None for all, got {slices!r}.")
    if not min_brain >= 0:
        raise ValueError(f"The least area of brain must be 0 or more square centimetres, got {min_brain}.")
    check_method(normalisation)
    unknown = [m for m in modalities if m not in MODALITIES]
    if unknown or not modalities or len(set(modalities)) < len(modalities):
        raise ValueError(
            f"The modalities must be some of {', '.join(MODALITIES)}, each once, got {', '.join(map(str, modalities)) or 'none'}."
        )
    return dict(
        format=FORMAT,
        mmccd=__version__,
        size=size,
        slices=None if slices is None else [slices[0], slices[-1]],
        modalities=list(modalities),
        tumour_free=bool(tumour_free),
        min_brain=float(min_brain),
        healthy=bool(healthy),
        normalisation=normalisation,
        phantom=phantom,
    )


def scaled_slices(
    case: Case,  # a case
    modality: str,  # of it
    index: list,  # axial indices
    method: str,  # of normalisation
) -> torch.Tensor:  # (b 1 h w) float32
    "Some slices, normalised by the whole brain: what `case.slices` gives, without scaling the others."
    if method == "published":
        return case.slices(modality, index, method)  # looks at the background too
    volume, brain = case.volumes[modality].T, case.brain.T  # as they lie in memory
    ends = np.cumsum([np.count_nonzero(page) for page in brain])
    values = normalise(volume[brain], np.ones(ends[-1], bool), method, f"{modality} of {case.id}", modality)
    out = np.full((len(index), 1, *brain.shape[1:]), -1, np.float32)
    for page, k in zip(out, index):
        page[0][brain[k]] = values[ends[k] - brain[k].sum() : ends[k]]
    return torch.from_numpy(out)


def case_arrays(
    case: Case,  # with the recipe's modalities
    recipe: dict,  # from `make_recipe`
) -> tuple:  # images (n m size size) float16; masks (n 2 size size) uint8: brain, lesion; rows [place, brain cm2, lesion cm2 or None]
    "What the store keeps of a case."
    if case.lesion is None and recipe["healthy"]:
        case.lesion = np.zeros_like(case.brain)
    size, slices = recipe["size"], recipe["slices"] and range(recipe["slices"][0], recipe["slices"][1] + 1)
    index = choose_slices(case, slices, recipe["tumour_free"], recipe["min_brain"])
    images = np.empty((len(index), len(recipe["modalities"]), size, size), np.float16)
    edge = BACKGROUND.get(recipe["normalisation"], -1.0)
    for j, m in enumerate(recipe["modalities"]):
        images[:, j] = (
            resize(scaled_slices(case, m, index, recipe["normalisation"]), size, edge)[:, 0]
            .clamp(-LARGEST, LARGEST)
            .half()
        )
    known = [case.brain] + [case.lesion] * (case.lesion is not None)
    masks = np.zeros((len(index), 2, size, size), np.uint8)
    for j, mask in enumerate(known):
        masks[:, j] = resize_labels(to_slices(mask, index), size)[:, 0] if index else 0
    table = [areas(mask, case.affine)[index].round(6).tolist() for mask in known] + [[None] * len(index)] * (
        2 - len(known)
    )
    return (
        images,
        masks,
        [list(row) for row in zip(slice_places(case.brain.shape, case.affine)[index].tolist(), *table)],
    )


def write_case(
    place,  # path or fsspec URL of a store
    id: str,  # of the case
    images: np.ndarray,  # (n m size size) float16
    masks: np.ndarray,  # (n 2 size size) uint8
    record: dict,  # its rows and source
):
    "Write a case; the record comes last."
    import zarr

    store, stored = open_place(place, write=True), 0
    with store_errors(place):
        group = zarr.create_group(store, path=id, overwrite=True)  # whatever half a case was there
        for name, a in dict(images=images, masks=masks).items():
            if not len(a):
                continue
            array = zarr.create_array(
                store, name=f"{id}/{name}", data=a, chunks=(1, *a.shape[1:]), shards=a.shape, overwrite=True
            )
            stored += array.nbytes_stored()
        group.attrs.put({"case": record | {"bytes": int(stored), "mmccd": __version__}})


def load_source(
    source,  # path of a case, or {"kind", "index"} of a phantom
    recipe: dict,  # with the modalities
) -> tuple:  # (case, what it was made of)
    "Read or make one case; what it is made of (names and sizes of files) tells it from another of the same name."
    if isinstance(source, dict):
        how, slices = recipe["phantom"], recipe["slices"]
        wanted = None if how["whole"] or slices is None else range(slices[0], slices[1] + 1)
        subject = make_phantom(source["kind"], how["seed"], source["index"], wanted, twin=False)
        return Case.from_phantom(subject, modalities=recipe["modalities"]), source
    case = Case.load(source, recipe["modalities"])
    return case, source_files(source, recipe)


def source_files(
    source,  # path of a case, or {"kind", "index"} of a phantom
    recipe: dict,  # with the modalities
) -> dict:  # bytes by name
    "Names and sizes of the files of a case."
    if isinstance(source, dict):
        return source
    files, seg = choose_files(source, recipe["modalities"])
    return {Path(p).name: os.path.getsize(p) for p in (*files.values(), seg) if p}


def prepare_one(
    task: tuple,  # (id, source)
    place,  # path or fsspec URL of the store
    recipe: dict,  # from `make_recipe`
) -> dict:  # {"id", "slices"} or {"id", "error"}
    "One case, from its files into the store."
    id, source = task
    try:
        if re.search(r"[\\/]|^\.|^zarr\.json$", id):
            raise ValueError(f"{id!r} cannot be the name of a case in a store; rename it.")
        case, origin = load_source(source, recipe)
        *arrays, rows = case_arrays(case, recipe)
    except Exception as error:
        return {"id": id, "error": f"{'' if id in str(error) else f'{id}: '}{format_error(error)}"}
    write_case(place, id, *arrays, {"rows": rows, "source": origin})
    return {"id": id, "slices": len(rows)}


def workers(
    jobs: int,  # asked for; 0 leaves the choice to us
    n: int,  # cases to do
    place,  # path or fsspec URL of the store
) -> int:  # processes, at least 1
    "How many processes? A new one spends seconds on imports, so a few cases are quicker without."
    if str(place).startswith("memory:"):
        return 1  # other processes have other memories
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(jobs or (cores if n >= 16 else 1), n))


def run_tasks(
    tasks: list,  # (id, source) pairs
    place,  # path or fsspec URL of the store
    recipe: dict,  # from `make_recipe`
    jobs: int = 1,  # processes; 1 works in this one
):  # yields what `prepare_one` returns, in any order
    "Prepare the cases."
    if jobs == 1:
        with single_thread():
            yield from (prepare_one(task, place, recipe) for task in tasks)
        return
    with ProcessPool(jobs) as pool:
        yield from (f.result() for f in as_completed([pool.submit(prepare_one, task, place, recipe) for task in tasks]))


def check_recipe(
    old: dict,  # of the store
    new: dict,  # asked for
    place,  # the store
):
    "Refuse a recipe that is not the store's."

    def says(key, value):
        return (
            f"{key.replace('_', '-')} {json.dumps(value)}"
            if key != "phantom"
            else "of scans"
            if value is None
            else "of phantoms ({})".format(", ".join(f"{k} {v}" for k, v in value.items()))
        )

    for key in (k for k in new if k != "mmccd" and old.get(k) != new[k]):
        raise ValueError(
            f"The store {display_name(place)} was made {'with ' * (key != 'phantom')}{says(key, old.get(key))}, not {says(key, new[key])}; choose another place, or ask for the same."
        )


def unfinished(
    tasks: list,  # (id, source) pairs
    records: dict,  # of the complete cases
    recipe: dict,  # of the store
) -> tuple:  # (tasks to do, ids that are done, failures)
    "Which cases are still to do, and which only share a name with one that is done?"
    todo, done, failed = [], [], []
    for id, source in tasks:
        if id not in records:
            todo.append((id, source))
            continue
        try:
            same = records[id]["source"] == source_files(source, recipe)
        except Exception as error:
            failed.append({"id": id, "error": format_error(error)})
            continue
        if same:
            done.append(id)
        else:
            failed.append(
                {
                    "id": id,
                    "error": f"{id} is in the store already, made of other files; rename this case, or choose another store.",
                }
            )
    return todo, done, failed


def plan(
    raw,  # path or paths as `find_cases` takes them, or `Phantoms`
    place,  # path or fsspec URL of the store
    modalities,  # asked for, or None
    **options,  # of `make_recipe`
) -> tuple:  # (tasks, recipe, is the store new)
    "What is to be done, before anything is."
    old = read_store(place)
    tasks = raw.tasks() if isinstance(raw, Phantoms) else find_cases(raw)
    if modalities is None:
        modalities = old["modalities"] if old else MODALITIES if isinstance(raw, Phantoms) else first_modalities(tasks)
    phantom = {"version": VERSION, "seed": raw.seed, "whole": raw.whole} if isinstance(raw, Phantoms) else None
    recipe = make_recipe(
        modalities=[modalities] if isinstance(modalities, str) else list(modalities), phantom=phantom, **options
    )
    if old:
        check_recipe(old, recipe, place)
    return tasks, old or recipe, not old


def first_modalities(
    tasks: list,  # (id, path) pairs
) -> list:  # of the first case that says
    "Which modalities does the data have?"
    problem = None
    for _, path in tasks:
        try:
            return list(choose_files(path)[0])
        except (ValueError, OSError) as error:
            problem = problem or error
    raise problem or ValueError("There is nothing to prepare: the list of cases is empty.")


@contextmanager
def store_group(
    place,  # path or fsspec URL
    recipe: dict,  # for a new store
    new: bool,  # is there nothing yet?
):
    "Begin a store; take it away again if no slice got into it."
    import shutil

    import zarr

    with store_errors(place):
        if new:
            zarr.create_group(open_place(place, write=True), attributes={"recipe": recipe})  # in one piece
    try:
        yield
    finally:
        if new and not is_url(place) and not any(r["rows"] for r in read_records(place).values()):
            shutil.rmtree(place)


def prepare(
    raw,  # a case folder, a folder of cases, or several; or `Phantoms`
    store,  # where to: a path, or an fsspec URL such as s3://bucket/x
    size: int = 64,  # pixels along each side
    slices=SLICE_RANGE,  # range of axial places, or None for all
    modalities=None,  # which; None takes those of the first case
    tumour_free: bool = False,  # only slices without lesion (a dataset can also choose later)
    min_brain: float = MIN_BRAIN,  # square centimetres of brain a slice needs
    healthy: bool = False,  # cases without segmentation are known to be healthy
    normalisation: str = DEFAULT,  # method, as in chapter 02b
    jobs: int = 1,  # processes, 0 chooses; unless it is 1, a script must call this under `if __name__ == "__main__":`
    progress: bool = True,  # a bar, if on a terminal
) -> (
    dict
):  # "store", "new", "kept", "failed" (id and error each), "cases", "slices", "ill", "unknown", "bytes", "recipe"
    "Write a store of slices; goes on where an earlier run stopped."
    from tqdm import tqdm

    tasks, recipe, new = plan(
        raw,
        store,
        modalities,
        size=size,
        slices=slices,
        tumour_free=tumour_free,
        min_brain=min_brain,
        healthy=healthy,
        normalisation=normalisation,
    )
    with store_group(store, recipe, new):
        todo, kept, failed = unfinished(tasks, read_records(store), recipe)
        bar = tqdm(
            run_tasks(todo, store, recipe, workers(jobs, len(todo), store)),
            "prepare",
            len(tasks),
            initial=len(kept) + len(failed),
            unit="case",
            disable=None if progress else True,
        )
        failed = sorted(failed + [r for r in bar if "error" in r], key=lambda r: r["id"])
        records = read_records(store)
        rows = [row for r in records.values() for row in r["rows"]]
        if records and not rows:
            raise ValueError(
                f"No slice of {len(records)} case{'s' * (len(records) != 1)} is fit for a store: all show lesion or have too little brain; ask for other slices, or for less brain."
            )
    return {
        "store": str(store),
        "new": len(tasks) - len(kept) - len(failed),
        "kept": len(kept),
        "failed": failed,
        "cases": len(records),
        "slices": len(rows),
        "ill": sum(bool(row[2]) for row in rows),
        "unknown": sum(row[2] is None for row in rows),
        "bytes": sum(r["bytes"] for r in records.values()),
        "recipe": recipe,
    }
