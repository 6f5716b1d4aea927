"""The slices of a benchmark: those that train and validate, those that set thresholds, and those that are scored."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from mmccd.anatomy import KINDS
from mmccd.benchmark.plan import Plan
from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceDataset, SliceStore
from mmccd.cases.subjects import split_from_lists
from mmccd.runtime import counted, evenly_spaced
from mmccd.scoring import worst_slice
from mmccd.slices import to_volume
from mmccd.training.data import store_data

Batch = dict[str, torch.Tensor]
"""Slices by modality, with "brain" and (where it is known) "lesion"; each (b 1 h w)."""


def store_paths(plan: Plan) -> dict[str, Path]:
    """Paths of the stores for `learn`, `calibrate` and `test`; with scans some of them are the same."""
    if plan.scans:
        test = Path(plan.scans.test_store or plan.scans.store)
        return {"learn": Path(plan.scans.store), "calibrate": test, "test": test}
    return {k: Path(plan.out) / "stores" / f"{k}.zarr" for k in ("learn", "calibrate", "test")}


def make_stores(plan: Plan, jobs: int = 1, progress: bool = True, scheduler: str = "") -> None:
    """Make the phantoms, or go on where that was stopped; scans are in their stores already.

    Args:
        plan: The benchmark.
        jobs: Processes.
        progress: Show a bar, if on a terminal.
        scheduler: Of the workers that do it instead, as for `prepare`.

    Raises:
        ValueError: A phantom could not be made.
    """
    if plan.scans:
        return
    r, paths = plan.recipe, store_paths(plan)
    wanted = {
        "learn": (r.learn, r.size, r.train_places),
        "calibrate": (r.calibrate, r.scored, r.train_places),
        "test": (r.test, r.scored, r.test_places),
    }
    if not plan.trained:
        del wanted["learn"]
    for name, (phantoms, size, slices) in wanted.items():
        failed = prepare(
            phantoms,
            paths[name],
            size=size,
            slices=slices,
            modalities=list(plan.modalities),
            jobs=jobs,
            progress=progress,
            scheduler=scheduler,
        )["failed"]
        if failed:
            raise ValueError(f"{counted(len(failed), 'subject')} could not be prepared: {failed[0]['error']}")


@lru_cache(1)
def load_training_data(plan: Plan) -> tuple[SliceDataset, SliceDataset]:
    """Healthy slices to train on, and those of other subjects to validate on."""
    s, (input, target) = plan.scans, plan.pairs[0]
    train_list, val_list, subjects = (s.train_list, s.val_list, s.subjects) if s else (None, None, None)
    return store_data(
        store_paths(plan)["learn"],
        input,
        target,
        val=plan.recipe.val,  # lists, where there are some, say it instead
        train_list=train_list,
        val_list=val_list,
        seed=plan.seed,
        modalities=plan.modalities,
        subjects=subjects,
    )


def subject_split(plan: Plan) -> dict[str, list[str]]:
    """Ids of the subjects that set thresholds (`calibrate`) and that are scored (`test`); for scans `train` too.

    Raises:
        ValueError: A subject is in two lists, or is in one and not in the stores.
    """
    paths, s = store_paths(plan), plan.scans
    if not s:
        return {k: SliceStore(paths[k]).ids for k in ("calibrate", "test")}
    stores = [SliceStore(paths[k]) for k in ("learn", "test")]
    for store in stores:
        if s.subjects:
            store.add_subjects(s.subjects)
    ids = {id for store in stores for id in store.ids}
    subjects = {id: person for store in stores for id, person in store.subjects.items()}
    parts = split_from_lists(ids, subjects=subjects, train=s.train_list, val=s.val_list, test=s.test_list)
    return {"train": parts["train"], "calibrate": parts["val"], "test": parts["test"]}


def subject_kind(plan: Plan, id: str) -> str:
    """The kind of a subject: `"patient"` for scans, else that of the phantom, which is part of its id."""
    return "patient" if plan.scans else id.split("-")[1]


def calibration_slices(plan: Plan) -> tuple[Batch, str]:
    """Healthy slices that set the thresholds, and what they are in words.

    They come from the places that are scored, or from all places where none of these is healthy.
    """
    r = plan.recipe
    data = SliceStore(store_paths(plan)["calibrate"]).dataset(
        subject_split(plan)["calibrate"], plan.modalities, tumour_free=True, in_memory=False
    )
    first, last = r.test_places[0], r.test_places[-1]
    there = [k for k, row in enumerate(data.rows) if row.place in r.test_places]
    where = (
        f"places {first} to {last}" if there else f"all places, as none of places {first} to {last} is free of lesion"
    )
    chosen = [(there or range(len(data)))[k] for k in evenly_spaced(len(there or data), r.calibration_slices)]
    return data.batch(chosen), f"{counted(len(chosen), 'slice')} ({where}) of {data.describe()}"


@dataclass(frozen=True, eq=False)
class ScoredSubject:
    """The slices of one subject that are scored.

    Attributes:
        id: Name of the case.
        kind: Of phantom, or `"patient"`.
        place: Axial place of the (first) slice.
        lesion_cm2: Area of the lesion in it; 0 for who is healthy.
        spacing: Side of a pixel in mm.
        batch: One slice of a patient, some of a healthy subject.
    """

    id: str
    kind: str
    place: int
    lesion_cm2: float
    spacing: float
    batch: Batch


def load_subject(plan: Plan, store: SliceStore, id: str) -> ScoredSubject:
    """The slice of a subject with most lesion inside the brain; for who shows none, a few slices evenly spaced.

    Raises:
        ValueError: The subject has no slice at the places that are scored, or no segmentation.
    """
    r = plan.recipe
    data = store.dataset([id], plan.modalities, tumour_free=False, in_memory=False)
    there = [k for k, row in enumerate(data.rows) if row.place in r.test_places]
    if not there:
        first, last = r.test_places[0], r.test_places[-1]
        raise ValueError(
            f"{id} has no slice at places {first} to {last}: prepare it with --slices {first}:{last} or wider"
        )
    if not data.known:
        raise ValueError(f"{id} has no segmentation, so nothing can be scored: take it out of the list to test on")
    candidates = [k for k in there if data.rows[k].lesion_cm2] or there[:1]
    batch = data.batch(candidates)
    lesion, brain = to_volume(batch["lesion"]), to_volume(batch["brain"])
    ill = bool((lesion & brain).any())
    if ill:
        chosen = [candidates[worst_slice(lesion, brain, range(len(candidates)))]]
    else:
        chosen = [there[k] for k in evenly_spaced(len(there), r.healthy_slices)]
    row, batch = data.rows[chosen[0]], data.batch(chosen)
    spacing = (row.brain_cm2 * 100 / batch["brain"][0].sum().item()) ** 0.5
    area = row.lesion_cm2 if ill and row.lesion_cm2 else 0.0
    return ScoredSubject(id, subject_kind(plan, id), row.place, area, spacing, batch)


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """What all methods are measured on.

    Attributes:
        calibration: Healthy slices that set the thresholds.
        basis: What these are, in words.
        subjects: Subjects with a lesion, sorted by kind and id; these are scored.
        healthy: Subjects without one; on these false alarms are counted.
        left_out: Ids of the patients who show no lesion at the places that are scored.
        check: Hash of all pixels, 16 hexadecimal digits: two results with the same one can be compared.
    """

    calibration: Batch
    basis: str
    subjects: list[ScoredSubject]
    healthy: list[ScoredSubject]
    left_out: list[str]
    check: str


@lru_cache(1)
def load_evaluation_set(plan: Plan) -> EvaluationSet:
    """Read everything that the methods are measured on, once.

    Raises:
        ValueError: No subject shows a lesion, or one of them cannot be scored.
    """
    store = SliceStore(store_paths(plan)["test"])
    found = [load_subject(plan, store, id) for id in subject_split(plan)["test"]]
    subjects = [s for s in found if s.lesion_cm2]
    if not subjects:
        raise ValueError("nobody among the subjects to test shows a lesion there: nothing can be scored; choose others")
    order = [*KINDS, "patient"]
    subjects.sort(key=lambda s: (order.index(s.kind), s.id))
    calibration, basis = calibration_slices(plan)
    batches = [calibration, *(s.batch for s in found)]
    check = hashlib.sha256(b"".join(b[k].numpy().tobytes() for b in batches for k in sorted(b))).hexdigest()[:16]
    healthy = [s for s in found if not s.lesion_cm2 and s.kind in ("healthy", "artefact")]
    left_out = [s.id for s in found if not s.lesion_cm2 and s not in healthy]
    return EvaluationSet(calibration, basis, subjects, healthy, left_out, check)


def forget_data() -> tuple[()]:
    """Read everything afresh from now on; returns nothing for the tasks of a worker to share."""
    load_evaluation_set.cache_clear()
    load_training_data.cache_clear()
    return ()
