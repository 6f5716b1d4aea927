"""A store of slices for training, in zarr: one group a case, read as batches of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from mmccd.cases.filenames import nfc
from mmccd.cases.people import check_subjects, same_slices, stored_subjects
from mmccd.cases.records import (
    Place,
    Record,
    case_error,
    read_cases,
    read_store,
    store_error,
    user_place,
)
from mmccd.cases.shards import CaseFiles, fetch, open_case, unpack_slice
from mmccd.cases.subjects import read_subjects
from mmccd.errors import display_name, format_error
from mmccd.runtime import counted, free_memory

AT_A_TIME = 256  # slices that are fetched together
IN_MEMORY = 0.5  # share of the free memory that in_memory="auto" is ready to fill


class Row(NamedTuple):
    """One slice of a store: whose it is, its axial place, and how much brain and lesion it shows.

    `lesion_cm2` is None where it is not known; `index` counts the slices of the case in the store.
    """

    id: str
    place: int
    brain_cm2: float
    lesion_cm2: float | None
    index: int


class SliceStore:
    """A store of slices, as `prepare.prepare` wrote it.

    Attributes:
        place: path or fsspec URL.
        recipe: how it was made.
        records: what is known of each case, by id.
        notes: sentences on what whoever uses it should know.
        subjects: person by name of the case, where somebody said so (see `cases.people`).
    """

    recipe: dict[str, Any]

    def __init__(self, place: Place) -> None:
        """Open the store at `place`.

        Raises:
            ValueError: if there is none, or the record of a case is damaged.
        """
        place = user_place(place)
        recipe = read_store(place)
        if recipe is None:
            raise store_error(place, "there is nothing", "check the path, or make it with mmccd prepare")
        self.place, self.recipe = place, recipe
        self.records, unfinished, damaged = read_cases(place, recipe)
        for id, wrong in damaged.items():
            more = f", and {counted(len(damaged) - 1, 'other case')} too" * (len(damaged) > 1)
            raise case_error(place, id, wrong + more)
        copies = same_slices({id: r.get("checks", ()) for id, r in self.records.items()})
        self.notes, self.subjects = store_notes(place, recipe, unfinished), copies | stored_subjects(place)

    def add_subjects(self, path: str | PathLike[str]) -> None:
        """Let a file say who is who (see `subjects.read_subjects`), beside what the store was told; nothing is written.

        Raises:
            ValueError: if it cannot be read, or none of its names is a case.
        """
        said = read_subjects(path)
        self.notes += check_subjects(said, self.ids, path)
        self.subjects |= said

    @property
    def ids(self) -> list[str]:
        """The cases, sorted."""
        return list(self.records)

    @property
    def table(self) -> list[Row]:
        """All slices, case by case."""
        found = []
        for id, record in self.records.items():
            for k, (place, brain_cm2, lesion_cm2) in enumerate(record["rows"]):
                found.append(Row(id, place, brain_cm2, lesion_cm2, k))
        return found

    def dataset(
        self,
        ids: str | Iterable[str] | None = None,
        modalities: str | Iterable[str] | None = None,
        tumour_free: bool = True,
        min_brain: float = 0.0,
        in_memory: bool | Literal["auto"] = "auto",
    ) -> SliceDataset:
        """Choose slices to train or validate on.

        Args:
            ids: names of cases; None takes all.
            modalities: one or several; None takes all.
            tumour_free: only slices without lesion.
            min_brain: square centimetres of brain a slice needs.
            in_memory: keep all slices in memory; "auto" does so where they take at most half of what is free.

        Raises:
            ValueError: if the store lacks a case or modality, does not know where lesions are, or no slice is left.
        """
        modalities = [modalities] if isinstance(modalities, str) else list(modalities or self.recipe["modalities"])
        spelled = {nfc(id): id for id in self.ids}
        ids = self.ids if ids is None else [spelled.get(nfc(id), id) for id in ([ids] if isinstance(ids, str) else ids)]
        self._check("case", ids, self.records)
        self._check("modality", modalities, self.recipe["modalities"])
        wanted = set(ids)
        rows = [r for r in self.table if r.id in wanted and r.brain_cm2 >= min_brain]
        unknown = {r.id for r in rows if r.lesion_cm2 is None}
        if tumour_free and unknown:
            raise ValueError(
                f"Cannot tell which slices of {min(unknown)} are free of tumour: it has no segmentation; prepare it "
                "with one, or with healthy=True (--assume-healthy) if it is known to be healthy."
            )
        chosen = [r for r in rows if not (tumour_free and r.lesion_cm2)]
        if not chosen:
            why = f"all {len(rows)} show lesion" if rows else "none has enough brain"
            cases = f"{len(ids)} case{'s' * (len(ids) != 1)} in {display_name(self.place)}"
            raise ValueError(f"No slice is left of {cases}: {why}; choose more cases or wider slices.")
        how = {"ids": sorted({r.id for r in chosen}), "tumour_free": tumour_free, "min_brain": min_brain}
        return SliceDataset(self, chosen, modalities, self.recipe | {"chosen": how}, in_memory)

    def _check(self, what: str, names: Sequence[str], known: Iterable[str]) -> None:
        known = set(known)
        missing = [n for n in names if n not in known]
        if missing:
            more = f" (and {len(missing) - 1} more)" * (len(missing) > 1)
            place = display_name(self.place)
            raise ValueError(f"The store {place} has no {what} {missing[0]}{more}; prepare it, or choose others.")

    def describe(self) -> str:
        """Say in one line what is in the store."""
        return describe_slices(self.table, self.recipe, self.recipe["modalities"])


def describe_slices(rows: Sequence[Row], recipe: dict[str, Any], modalities: Iterable[str]) -> str:
    """Say in one line what kind of data some slices are: how many, of whom, from where, at which size."""
    ill, n = sum(bool(r.lesion_cm2) for r in rows), len({r.id for r in rows})
    lesions = f"{ill} of them with lesion" if ill else "all tumour-free"
    if any(r.lesion_cm2 is None for r in rows):
        lesions = "lesions unknown"
    how = recipe["phantom"]
    origin = f"phantom {how['version']}, seed {how['seed']}" if how else "scans"
    places = f"places {min(r.place for r in rows)} to {max(r.place for r in rows)}" if rows else "no places"
    size = f"{recipe['size']}×{recipe['size']}"
    return (
        f"{len(rows)} slices ({lesions}) of {n} case{'s' * (n != 1)} from {origin}, {' '.join(modalities)}, {size}, "
        f"{places}, {recipe['normalisation']}"
    )


def store_notes(place: Place, recipe: dict[str, Any], unfinished: Sequence[str]) -> list[str]:
    """Return sentences on what a store lacks."""
    notes, where = [], display_name(place)
    if recipe["format"] == 1:
        notes.append(
            f"the store {where} was made by an earlier version, without checksums: damage to its slices would not be "
            "noticed; prepare the data again in another place to be safe"
        )
    if unfinished:
        cases = f"{display_name(unfinished[0])}" + f" and {len(unfinished) - 1} more" * (len(unfinished) > 1)
        notes.append(f"{cases} in the store {where}: not finished and left out; run the same mmccd prepare again")
    return notes


@contextmanager
def undamaged(place: Place, id: str) -> Iterator[None]:
    """Say which case of a store cannot be read, and what to do.

    Raises:
        ValueError: in place of whatever reading the case raised.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise case_error(place, id, "it is damaged, a file is missing") from error
    except (OSError, ImportError) as error:  # no permission, no network, a package that is missing
        reason = getattr(error, "strerror", None) or format_error(error)
        raise store_error(place, f"{id} cannot be read: {reason}", "put that right and run it again") from error
    except Exception as error:
        raise case_error(place, id) from error


class SliceDataset:
    """Slices of a store, ready for training; made by `SliceStore.dataset`.

    Attributes:
        rows: the slices.
        modalities: in the order wanted.
        recipe: of the store, and under "chosen" what was chosen.
        known: is it known of every slice where it shows lesion?
        nbytes: bytes of the slices.
        notes: those of the store.
        subjects: person by name of the case, where somebody said so.
    """

    def __init__(
        self,
        store: SliceStore,
        rows: list[Row],
        modalities: list[str],
        recipe: dict[str, Any],
        in_memory: bool | Literal["auto"] = "auto",
    ) -> None:
        """See `SliceStore.dataset`."""
        self.place, self.notes = store.place, store.notes
        self.subjects = {r.id: store.subjects[nfc(r.id)] for r in rows if nfc(r.id) in store.subjects}
        self.records: dict[str, Record] = {r.id: store.records[r.id] for r in rows}
        self.rows, self.modalities, self.recipe = rows, modalities, recipe
        self.channels = [recipe["modalities"].index(m) for m in modalities]
        self.known = all(r.lesion_cm2 is not None for r in rows)
        self.nbytes = len(rows) * recipe["size"] ** 2 * (2 * len(modalities) + 2)
        self.files: dict[str, CaseFiles] = {}
        self.kept: tuple[np.ndarray, np.ndarray] | None = None
        if in_memory is True or (in_memory == "auto" and self.nbytes <= IN_MEMORY * free_memory()):
            self.kept = self.read(range(len(rows)))

    @property
    def ids(self) -> list[str]:
        """The cases that the slices belong to, sorted."""
        return sorted({r.id for r in self.rows})

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind where slices lie: a process that reads ahead looks for itself."""
        return self.__dict__ | {"files": {}}

    def read(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Read slices from the store, and compare them with their checksums.

        Returns:
            Images (n m size size) float16, and masks (n 2 size size) uint8: brain, lesion.

        Raises:
            ValueError: if a case is damaged.
        """
        shape = [self.recipe["size"]] * 2
        images = np.empty((len(indices), len(self.channels), *shape), np.float16)
        masks = np.empty((len(indices), 2, *shape), np.uint8)
        for first in range(0, len(indices), AT_A_TIME):
            rows = [self.rows[i] for i in indices[first : first + AT_A_TIME]]
            cases = [self.case_files(row.id) for row in rows]
            fetched = fetch(self.place, [(case, row.index) for case, row in zip(cases, rows)])
            for j, (case, row, packed) in enumerate(zip(cases, rows, fetched), first):
                with undamaged(self.place, row.id):
                    image, masks[j] = unpack_slice(case, row.index, packed)
                images[j] = image[self.channels]
        return images, masks

    def case_files(self, id: str) -> CaseFiles:
        """Return where the slices of a case lie.

        Raises:
            ValueError: if the case is damaged.
        """
        if id not in self.files:
            with undamaged(self.place, id):
                self.files[id] = open_case(self.place, id, self.records[id], self.recipe)
        return self.files[id]

    def batch(self, indices: Iterable[int]) -> dict[str, torch.Tensor]:
        """Return slices as tensors.

        Args:
            indices: which slices.

        Returns:
            float32 (b 1 h w) by modality, "brain" as bool (b 1 h w), and "lesion" likewise where it is known.
        """
        indices = [int(i) for i in indices]
        images, masks = self.read(indices) if self.kept is None else [a[indices] for a in self.kept]
        out = {m: torch.from_numpy(images[:, [j]]).float() for j, m in enumerate(self.modalities)}
        for j, name in enumerate(["brain"] + ["lesion"] * self.known):
            out[name] = torch.from_numpy(masks[:, [j]]).bool()
        return out

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {name: x[0] for name, x in self.batch([i]).items()}

    def __getitems__(self, indices: Iterable[int]) -> list[dict[str, torch.Tensor]]:
        batch = self.batch(indices)
        return [dict(zip(batch, xs)) for xs in zip(*batch.values())]

    def describe(self) -> str:
        """Say in one line what the slices are."""
        return describe_slices(self.rows, self.recipe, self.modalities)
