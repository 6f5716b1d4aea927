""""""

from collections import namedtuple
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch

from mmccd.errors import display_name

FORMAT = 1  # of the store


@contextmanager
def store_errors(
    place,  # the store
):
    "What the system says when writing or reading a store fails, in one sentence."
    try:
        yield
    except (OSError, ImportError) as error:
        full = isinstance(error, OSError) and error.errno == 28
        wrong = getattr(error, "strerror", None) or error
        raise ValueError(
            f"Cannot use the store {display_name(place)}: {wrong}; {'free some space and run it again' if full else 'choose another place'}."
        ) from error


def is_url(
    place,  # path or URL
) -> bool:
    "Is it an fsspec URL, such as memory://x or s3://bucket/x?"
    return "://" in str(place)


def open_place(
    place,  # path or fsspec URL
    write: bool = False,  # to write into
):  # a zarr `Store`
    "The place of a store, which may still be empty."
    from zarr.storage import FsspecStore, LocalStore

    with store_errors(place):
        if is_url(place):
            try:
                return FsspecStore.from_url(str(place), read_only=not write)
            except ValueError as error:
                raise OSError(str(error)) from error  # an unknown protocol
        if display_name(place) != str(place):
            raise ValueError(
                f"Cannot use the store {display_name(place)}: its name has characters that cannot be read; rename it."
            )
        return LocalStore(
            Path(place).absolute(), read_only=not write
        )  # zarr 3.1 loses its way in a relative one-letter folder


def read_store(
    place,  # path or fsspec URL
) -> dict | None:  # the recipe; None where there is nothing yet
    "The recipe of a store; refuses what is something else."
    import zarr

    no_store = ValueError(
        f"Cannot use the store {display_name(place)}: what is there is not a store of slices; choose another place, or make one with mmccd prepare."
    )
    if not is_url(place) and Path(place).exists():
        if not Path(place).is_dir():
            raise ValueError(
                f"Cannot use the store {display_name(place)}: it is a file, not a folder; choose another place."
            )
        with store_errors(place):
            empty = not any(Path(place).iterdir())
        if empty:
            return None
        if not (Path(place) / "zarr.json").exists():
            raise no_store
    store = open_place(place)
    with store_errors(place):
        try:
            recipe = zarr.open_group(store, mode="r").attrs.get("recipe")
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise no_store from error
    if not isinstance(recipe, dict) or "size" not in recipe:
        raise no_store
    if recipe["format"] != FORMAT:
        raise ValueError(
            f"Cannot use the store {display_name(place)}: it has format {recipe['format']}, and this version of mmccd knows format {FORMAT}; update mmccd, or prepare the data again."
        )
    return recipe


def read_records(
    place,  # path or fsspec URL of a store
) -> dict:  # record by id, sorted, of the complete cases
    "The cases that count: those whose record is written."
    import fsspec
    import zarr

    found, store = {}, open_place(place)
    with store_errors(place):
        files, root = fsspec.core.url_to_fs(str(place))
        names = {
            p["name"].rstrip("/").rsplit("/", 1)[-1] for p in files.ls(root, detail=True) if p["type"] == "directory"
        }
        for id in sorted(names):
            with suppress(
                FileNotFoundError, ValueError, KeyError, TypeError
            ):  # no group, or a record that a power cut left empty
                group = zarr.open_group(store, path=id, mode="r")
                record = group.attrs.get("case")
                if record and (not record["rows"] or {"images", "masks"} <= set(group.array_keys())):
                    found[id] = record
    return found


Row = namedtuple("Row", "id place brain_cm2 lesion_cm2 index")  # lesion_cm2 is None where it is not known


class SliceStore:
    "A store of slices, as `prepare` wrote it."

    def __init__(
        self,
        place,  # path or fsspec URL
    ):
        self.place, self.recipe = place, read_store(place)
        if self.recipe is None:
            raise ValueError(
                f"Cannot use the store {display_name(place)}: there is nothing; check the path, or make it with mmccd prepare."
            )
        self.records = read_records(place)

    @property
    def ids(self):
        return list(self.records)

    @property
    def table(self):
        return [Row(id, *row, k) for id, record in self.records.items() for k, row in enumerate(record["rows"])]

    def dataset(
        self,
        ids=None,  # names of cases; None takes all
        modalities=None,  # one or several; None takes all
        tumour_free: bool = True,  # only slices without lesion
        min_brain: float = 0.0,  # square centimetres of brain a slice needs
        in_memory="auto",  # True, False, or "auto": if it takes no more than 2 GB
    ):
        "Choose slices to train or validate on: a `SliceDataset`."
        modalities = [modalities] if isinstance(modalities, str) else list(modalities or self.recipe["modalities"])
        ids = self.ids if ids is None else [ids] if isinstance(ids, str) else list(ids)
        for what, names, there in (("case", ids, self.records), ("modality", modalities, self.recipe["modalities"])):
            missing = [n for n in names if n not in there]
            if missing:
                raise ValueError(
                    f"The store {display_name(self.place)} has no {what} {missing[0]}"
                    + f" (and {len(missing) - 1} more)" * (len(missing) > 1)
                    + "; prepare it, or choose others."
                )
        rows = [r for r in self.table if r.id in set(ids) and r.brain_cm2 >= min_brain]
        unknown = {r.id for r in rows if r.lesion_cm2 is None}
        if tumour_free and unknown:
            raise ValueError(
                f"Cannot tell which slices of {min(unknown)} are free of tumour: it has no segmentation; prepare it with one, or with healthy=True (--assume-healthy) if it is known to be healthy."
            )
        chosen = [r for r in rows if not (tumour_free and r.lesion_cm2)]
        if not chosen:
            raise ValueError(
                f"No slice is left of {len(ids)} case{'s' * (len(ids) != 1)} in {display_name(self.place)}: {f'all {len(rows)} show lesion' if rows else 'none has enough brain'}; choose more cases or wider slices."
            )
        how = {"ids": sorted({r.id for r in chosen}), "tumour_free": tumour_free, "min_brain": min_brain}
        return SliceDataset(self.place, chosen, modalities, self.recipe | {"chosen": how}, in_memory)

    def describe(self):
        return describe_slices(self.table, self.recipe, self.recipe["modalities"])


def describe_slices(
    rows: list,  # of `Row`
    recipe: dict,  # of the store
    modalities: list,  # used
) -> str:  # one line
    "What kind of data is this?"
    ill, n = sum(bool(r.lesion_cm2) for r in rows), len({r.id for r in rows})
    lesions = (
        "lesions unknown"
        if any(r.lesion_cm2 is None for r in rows)
        else f"{ill} of them with lesion"
        if ill
        else "all tumour-free"
    )
    how = recipe["phantom"]
    origin = f"phantom {how['version']}, seed {how['seed']}" if how else "scans"
    places = f"places {min(r.place for r in rows)} to {max(r.place for r in rows)}" if rows else "no places"
    return f"{len(rows)} slices ({lesions}) of {n} case{'s' * (n != 1)} from {origin}, {' '.join(modalities)}, {recipe['size']}×{recipe['size']}, {places}, {recipe['normalisation']}"


@contextmanager
def undamaged(
    place,  # path or fsspec URL of the store
    id: str,  # of the case being read
):
    "Say which case of a store cannot be read, and what to do."
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"Cannot read {id} in the store {display_name(place)}: it is damaged; delete {display_name(place)}/{id} and prepare it again."
        ) from error


IN_MEMORY = 2e9  # bytes that "auto" is ready to keep


class SliceDataset:
    "Slices of a store, ready for training."

    def __init__(
        self,
        place,  # path or fsspec URL of the store
        rows: list,  # `Row`s, the slices
        modalities: list,  # in the order wanted
        recipe: dict,  # of the store, and what was chosen
        in_memory="auto",  # True, False or "auto"
    ):
        self.place, self.rows, self.modalities, self.recipe = place, rows, modalities, recipe
        self.channels, self.known = (
            [recipe["modalities"].index(m) for m in modalities],
            all(r.lesion_cm2 is not None for r in rows),
        )
        self.nbytes = len(rows) * recipe["size"] ** 2 * (2 * len(modalities) + 2)
        self.arrays, self.kept = {}, None
        if in_memory is True or (in_memory == "auto" and self.nbytes <= IN_MEMORY):
            self.kept = self.read(range(len(rows)))

    @property
    def ids(self):
        return sorted({r.id for r in self.rows})

    def __len__(self):
        return len(self.rows)

    def read(
        self,
        indices,  # which slices
    ):
        "Images and masks from the store, a case at a time."
        import zarr

        images, masks = (
            np.empty((len(indices), n, *[self.recipe["size"]] * 2), t)
            for n, t in ((len(self.channels), np.float16), (2, np.uint8))
        )
        of_case = {}
        for j, i in enumerate(indices):
            of_case.setdefault(self.rows[i].id, []).append((j, self.rows[i].index))
        for id, pairs in of_case.items():
            at, k = np.array(pairs).T
            wanted, back = np.unique(k, return_inverse=True)
            with undamaged(self.place, id):
                if id not in self.arrays:
                    self.arrays[id] = [
                        zarr.open_array(open_place(self.place), path=f"{id}/{n}", mode="r") for n in ("images", "masks")
                    ]
                for out, array, channels in zip((images, masks), self.arrays[id], (self.channels, [0, 1])):
                    out[at] = array.oindex[wanted][back][:, channels]
        return images, masks

    def batch(
        self,
        indices,  # which slices, a list of integers
    ) -> dict:  # modality -> float32 (b 1 h w), "brain" -> bool (b 1 h w), "lesion" likewise where it is known
        "Slices as tensors."
        indices = [int(i) for i in indices]
        images, masks = self.read(indices) if self.kept is None else [a[indices] for a in self.kept]
        out = {m: torch.from_numpy(images[:, [j]]).float() for j, m in enumerate(self.modalities)}
        for j, name in enumerate(["brain"] + ["lesion"] * self.known):
            out[name] = torch.from_numpy(masks[:, [j]]).bool()
        return out

    def __getitem__(self, i):
        return {name: x[0] for name, x in self.batch([i]).items()}

    def __getitems__(self, indices):
        return [dict(zip(b, xs)) for b in [self.batch(indices)] for xs in zip(*b.values())]

    def describe(self):
        return describe_slices(self.rows, self.recipe, self.modalities)
