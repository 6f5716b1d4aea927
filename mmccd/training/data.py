"""What is trained on: the form that data sets have, the two sets of a store, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import torch

    from mmccd.cases.store import SliceDataset


class TrainingData(Protocol):
    """Slices to train or validate on, such as the data sets of a store.

    Where a data set has them, `ids` (whose slices these are), `subjects` (person by id, where somebody said so), `rows`
    (area of the lesion in each slice), `recipe` (how they were prepared), `notes` and `describe()` (in words) are used
    to refuse mistakes and for the record.
    """

    def __len__(self) -> int:
        """Number of slices."""
        ...

    def batch(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """Some slices: a tensor (b 1 h w) for each modality and, as bool, `"brain"` and perhaps `"lesion"`."""
        ...


def store_data(
    store: str | Path,
    input: str,
    target: str,
    val: float = 0.1,
    train_list: str | Path | None = None,
    val_list: str | Path | None = None,
    seed: int = 0,
    modalities: Sequence[str] = (),
    subjects: str | Path | None = None,
    in_memory: bool | Literal["auto"] = "auto",
) -> tuple[SliceDataset, SliceDataset]:
    """Healthy slices of a store to train on, and those of other subjects to validate on.

    Args:
        store: Path or URL of a store made by `prepare`.
        input: Modality that the detector takes.
        target: Modality that it translates to; `""` for methods with one modality.
        val: Share of the subjects to validate on, or how many if 1 or more; not used with lists.
        train_list: File with the names of the cases to train on, one a line.
        val_list: File with the names of the cases to validate on.
        seed: Of the split.
        modalities: Which to load; none means input and target.
        subjects: File that says who is who (see `cases.subjects.read_subjects`), beside what the store was told.
        in_memory: Keep all slices in memory; "auto" does so where they take at most half of what is free.

    Raises:
        ValueError: The two modalities are the same, the lists or the split leave nothing to train or validate on, or
            the store cannot be used.
    """
    from mmccd.cases.store import SliceStore
    from mmccd.cases.subjects import split_from_lists, split_subjects
    from mmccd.errors import display_name

    if input == target:
        raise ValueError(f"input and target are both {input}: choose two modalities")
    if (train_list is None) != (val_list is None):
        raise ValueError("give both --train-list and --val-list, or neither")
    if train_list is None and not val:
        raise ValueError("--val must leave at least one subject to validate on")
    slices = SliceStore(store)
    if subjects:
        slices.add_subjects(subjects)
    healthy = {r.id for r in slices.table if not r.lesion_cm2}  # not known counts: `dataset` explains it
    if not healthy:
        raise ValueError(
            f"there is no healthy slice in {display_name(store)}: all show lesion; prepare more cases, "
            "or wider --slices"
        )
    if train_list and val_list:
        parts = split_from_lists(slices.ids, subjects=slices.subjects, train=train_list, val=val_list)
    else:
        parts = split_subjects(healthy, val=val, seed=seed, subjects=slices.subjects)

    def healthy_part(name: str, purpose: str) -> SliceDataset:
        ids = [i for i in parts[name] if i in healthy]
        if not ids:
            raise ValueError(
                f"no subject for {purpose} has a healthy slice: choose a larger --val, another --seed, or other lists"
            )
        wanted = list(modalities) or [m for m in (input, target) if m]
        return slices.dataset(ids, wanted, tumour_free=True, in_memory=in_memory)

    return healthy_part("train", "training"), healthy_part("val", "validation")


def subjects_of(data: TrainingData) -> set[str]:
    """The subjects of a data set; a subject may have several cases. Empty where the data set does not know."""
    from mmccd.cases.subjects import subject_of

    return {subject_of(str(i), getattr(data, "subjects", None)) for i in getattr(data, "ids", ())}


def data_notes(data: TrainingData, val: TrainingData) -> list[str]:
    """Sentences of warning on what is trained and validated on: for the user, and for the record of the run."""
    from mmccd.cases.subjects import FEW_SUBJECTS, doubtful_subjects, few_subjects_notes

    of_store = dict.fromkeys(note for part in (data, val) for note in getattr(part, "notes", ()))
    subjects = {**getattr(data, "subjects", {}), **getattr(val, "subjects", {})}
    ids = [str(i) for part in (data, val) for i in getattr(part, "ids", ())]
    few = few_subjects_notes(len(subjects_of(val)), "validation", f"--val {FEW_SUBJECTS}")
    return [*of_store, *doubtful_subjects(ids, subjects), *few]


def check_healthy(data: TrainingData, val: TrainingData) -> None:
    """Refuse slices with lesion, and subjects that are in both sets, as far as the data sets know.

    Raises:
        ValueError: A slice shows lesion or may do so, or a subject is in both sets.
    """
    for purpose, part in (("training", data), ("validation", val)):
        for row in getattr(part, "rows", ()):
            area = getattr(row, "lesion_cm2", 0.0)
            if area is None:
                raise ValueError(
                    f"a slice of {row.id} for {purpose} is not known to be healthy: prepare it with a segmentation, "
                    "or with --assume-healthy if it is"
                )
            if area:
                raise ValueError(
                    f"a slice of {row.id} for {purpose} shows lesion: train and validate on healthy slices only "
                    "(tumour_free=True)"
                )
    if both := subjects_of(data) & subjects_of(val):
        raise ValueError(
            f"{min(both)} is among the subjects for training and for validation: split by subject "
            "(mmccd.cases.subjects.split_subjects)"
        )
