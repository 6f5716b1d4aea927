""""""

import hashlib
from collections import namedtuple
from functools import lru_cache
from pathlib import Path

from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceStore
from mmccd.cases.subjects import split_from_lists
from mmccd.phantom import KINDS
from mmccd.runtime import counted, evenly_spaced
from mmccd.scoring import worst_slice
from mmccd.slices import to_volume
from mmccd.training.data import store_data


def places(
    plan,  # a `Plan`
) -> dict:  # paths of the stores: learn, calibrate, test
    "Where the slices lie."
    if plan.scans:
        return {"learn": Path(plan.scans.store)} | dict.fromkeys(
            ("calibrate", "test"), Path(plan.scans.test_store or plan.scans.store)
        )
    return {k: Path(plan.out) / "stores" / f"{k}.zarr" for k in ("learn", "calibrate", "test")}


def make_stores(
    plan,  # a `Plan`
    jobs: int = 1,  # processes
    progress=True,  # a bar, if on a terminal
):
    "Make the phantoms, or go on with them; scans are there already."
    r, where = plan.recipe, places(plan)
    wanted = {
        "learn": (r.learn, r.size, r.height),
        "calibrate": (r.calibrate, r.scored, r.height),
        "test": (r.test, r.scored, r.places),
    }
    for name, (phantoms, size, slices) in wanted.items():
        if plan.scans or (name == "learn" and not plan.trained):
            continue
        failed = prepare(
            phantoms,
            where[name],
            size=size,
            slices=slices,
            modalities=list(plan.modalities),
            jobs=jobs,
            progress=progress,
        )["failed"]
        if failed:
            raise ValueError(f"{counted(len(failed), 'subject')} could not be prepared: {failed[0]['error']}")


@lru_cache(1)
def load_training_data(
    plan,  # a `Plan`
) -> tuple:  # (data to learn from, data to validate on)
    "Healthy slices, those to validate on of other subjects."
    s, (input, target) = plan.scans, plan.pairs[0]
    lists = dict(train_list=s.train_list, val_list=s.val_list) if s else dict(val=plan.recipe.val)
    return store_data(places(plan)["learn"], input, target, seed=plan.seed, modalities=plan.modalities, **lists)


def subject_split(
    plan,  # a `Plan`
) -> dict:  # ids by what they are for: calibrate and test; for scans train too
    "Which subjects are for what? Refuses a name in two lists."
    if not plan.scans:
        return {k: SliceStore(places(plan)[k]).ids for k in ("calibrate", "test")}
    s = plan.scans
    parts = split_from_lists(
        {id for k in ("learn", "test") for id in SliceStore(places(plan)[k]).ids},
        train=s.train_list,
        val=s.val_list,
        test=s.test_list,
    )
    return {"train": parts["train"], "calibrate": parts["val"], "test": parts["test"]}


def kind_of(
    plan,  # a `Plan`
    id,  # of a subject
) -> str:
    "What kind of subject? Phantoms say it in their names."
    return "patient" if plan.scans else id.split("-")[1]


def calibration_slices(
    plan,  # a `Plan`
) -> tuple:  # (batch, what they are in words)
    "Healthy slices that set the thresholds: at the places that are tested, or at any where none of these is healthy."
    r = plan.recipe
    data = SliceStore(places(plan)["calibrate"]).dataset(
        subject_split(plan)["calibrate"], plan.modalities, tumour_free=True, in_memory=False
    )
    at = [k for k, row in enumerate(data.rows) if row.place in r.places]
    where = (
        f"places {r.places[0]} to {r.places[-1]}"
        if at
        else f"all places, as none of places {r.places[0]} to {r.places[-1]} is free of lesion"
    )
    some = [(at or range(len(data)))[k] for k in evenly_spaced(len(at or data), r.judged)]
    return data.batch(some), f"{counted(len(some), 'slice')} ({where}) of {data.describe()}"


Subject = namedtuple(
    "Subject", "id kind place lesion_cm2 spacing batch"
)  # spacing: mm; batch: its slices, by modality, and brain and lesion


def subject(
    plan,  # a `Plan`
    store,  # a `SliceStore`
    id,  # of a subject
) -> Subject:
    "The slice with most lesion; for somebody without, some slices, and `lesion_cm2` is 0."
    r = plan.recipe
    data = store.dataset([id], plan.modalities, tumour_free=False, in_memory=False)
    at = [k for k, row in enumerate(data.rows) if row.place in r.places]
    if not at:
        raise ValueError(
            f"{id} has no slice at places {r.places[0]} to {r.places[-1]}: prepare it with --slices {r.places[0]}:{r.places[-1]} or wider"
        )
    if not data.known:
        raise ValueError(f"{id} has no segmentation, so nothing can be scored: take it out of the list to test on")
    some = [k for k in at if data.rows[k].lesion_cm2] or at[:1]
    lesion, brain = (to_volume(v) for b in [data.batch(some)] for v in (b["lesion"], b["brain"]))
    ill = bool((lesion & brain).any())
    chosen = (
        [some[worst_slice(lesion, brain, range(len(some)))]] if ill else [at[k] for k in evenly_spaced(len(at), r.each)]
    )
    row, batch = data.rows[chosen[0]], data.batch(chosen)
    spacing = (row.brain_cm2 * 100 / batch["brain"][0].sum().item()) ** 0.5
    return Subject(id, kind_of(plan, id), row.place, row.lesion_cm2 if ill else 0.0, spacing, batch)


EvaluationSet = namedtuple(
    "Judged", "calibration basis subjects healthy left_out check"
)  # what all methods are measured on


@lru_cache(1)
def load_evaluation_set(
    plan,  # a `Plan`
) -> EvaluationSet:
    "Read once what every method is measured on. Who ought to have a lesion and shows none is left out."
    store, asked = SliceStore(places(plan)["test"]), subject_split(plan)["test"]
    found = [subject(plan, store, id) for id in asked]
    subjects = [s for s in found if s.lesion_cm2]
    if not subjects:
        raise ValueError("nobody among the subjects to test shows a lesion there: nothing can be scored; choose others")
    order = list(dict.fromkeys([*KINDS, "patient"]))
    subjects.sort(key=lambda s: (order.index(s.kind), s.id))
    batch, basis = calibration_slices(plan)
    seen = [batch, *(s.batch for s in found)]
    check = hashlib.sha256(b"".join(b[k].numpy().tobytes() for b in seen for k in sorted(b)))
    healthy = [s for s in found if not s.lesion_cm2 and s.kind in ("healthy", "artefact")]
    return EvaluationSet(
        batch,
        basis,
        subjects,
        healthy,
        [s.id for s in found if not s.lesion_cm2 and s not in healthy],
        check.hexdigest()[:16],
    )
