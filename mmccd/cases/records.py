"""What a store keeps beside its slices: its recipe and a record of each case, both checked whenever they are read."""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Generator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, NotRequired

import numpy as np
from annotated_types import Ge, Le, Len
from typing_extensions import TypedDict

from mmccd.anatomy import GRID, MODALITIES, VARIED
from mmccd.errors import display_name
from mmccd.extras import require
from mmccd.files import LOCK, PART, user_path
from mmccd.intensity import check_method
from mmccd.schemas import MAX_BYTES, Millimetres, Natural, checked
from mmccd.slices import FOV

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
    from zarr.abc.store import Store

Place = str | PathLike[str]  # a path, or an fsspec URL such as memory://x or s3://bucket/x
Recipe = dict[str, Any]  # how a store is made; see `StoredRecipe`
Record = dict[str, Any]  # of a case; see `StoredRecord`

NEEDS_ZARR = "a store of slices"
FORMAT = 2  # of the store; those of format 1 have no checksums
ARRAYS = {"images": "float16", "masks": "uint8"}  # of a case, (n m size size) and (n 2 size size)

Area = Annotated[float, Ge(0), Le(1e6)]  # square centimetres
Pixels = Annotated[int, Ge(8), Le(1024)]
Modality = Literal[MODALITIES]  # type: ignore[not-a-type]


class PhantomRecipe(TypedDict):
    """How phantoms were made."""

    version: Natural
    seed: Natural
    whole: bool
    every: NotRequired[Annotated[int, Ge(2), Le(GRID[2])]]
    varied: NotRequired[Annotated[list[Literal[VARIED]], Len(1, len(VARIED))]]  # type: ignore[not-a-type]


class StoredRecipe(TypedDict):
    """The recipe in the attributes of a store's group; `prepare.make_recipe` says what the fields mean."""

    format: Natural
    mmccd: str
    size: Pixels
    fov: NotRequired[Millimetres]  # stores of format 1 do not say it
    slices: Annotated[list[Natural], Len(2, 2)] | None
    modalities: Annotated[list[Modality], Len(1, len(MODALITIES))]
    tumour_free: bool
    min_brain: Area
    healthy: bool
    normalisation: str
    phantom: PhantomRecipe | None


class StoredRecord(TypedDict):
    """The record in the attributes of a case's group.

    `rows` has the place of each slice and its square centimetres of brain and of lesion (None: not known); `source`
    says what the case was made of; `checks` has a checksum for each slice (see `slice_checks`), `recipe` one of the
    store's recipe. Stores of format 1 have neither these two nor `id`.
    """

    rows: list[tuple[Natural, Area, Area | None]]
    source: dict[str, Any]
    bytes: Natural
    mmccd: str
    id: NotRequired[str]
    recipe: NotRequired[str]
    checks: NotRequired[list[str]]
    notes: NotRequired[list[str]]


class Cases(NamedTuple):
    """The cases of a store: records of those that are whole, and who is not, with what is wrong."""

    records: dict[str, Record]
    unfinished: list[str]  # whose writing was stopped
    damaged: dict[str, str]


def store_error(place: object, wrong: object, todo: str) -> ValueError:
    """Return the error for a store that cannot be used: where, what is wrong, what to do."""
    return ValueError(f"Cannot use the store {display_name(place)}: {wrong}; {todo}.")


def case_error(place: object, id: str, wrong: str = "it is damaged") -> ValueError:
    """Return the error for a case of a store that cannot be used."""
    where = display_name(place)
    todo = f"delete {where}/{display_name(id)} and prepare it again"
    return ValueError(f"Cannot read {display_name(id)} in the store {where}: {wrong}; {todo}.")


@contextmanager
def store_errors(place: Place) -> Generator[None]:
    """Turn what the system says when writing or reading a store fails into one sentence.

    Raises:
        ValueError: in place of an OSError or ImportError.
    """
    try:
        yield
    except (OSError, ImportError) as error:
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        todo = "free some space and run it again" if full else "choose another place"
        raise store_error(place, getattr(error, "strerror", None) or error, todo) from error


def is_url(place: Place) -> bool:
    """Tell whether a place is an fsspec URL."""
    return "://" in str(place)


def in_memory(place: Place) -> bool:
    """Tell whether a store or result lies in this process, so that no other one can write there."""
    return str(place).startswith("memory:")


def user_place(place: Place) -> str | Path:
    """Return the place that a user means: a URL as it is, a path with the home folder for `~`."""
    return str(place) if is_url(place) else user_path(place)


def open_place(place: Place, write: bool = False) -> Store:
    """Open the place of a store, which may still be empty, for reading or writing.

    Raises:
        ValueError: if there can be no store.
    """
    require(NEEDS_ZARR, "zarr", "fsspec")
    from zarr.storage import FsspecStore, LocalStore

    with store_errors(place):
        if is_url(place):
            try:
                return FsspecStore.from_url(str(place), read_only=not write)
            except ValueError as error:
                raise OSError(str(error)) from error  # an unknown protocol
        if display_name(place) != str(place):
            raise store_error(place, "its name has characters that cannot be read", "rename it")
        # absolute: zarr 3.1 loses its way in a relative one-letter folder
        return LocalStore(Path(place).absolute(), read_only=not write)


def open_files(place: Place) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a store, and the path of the store in it."""
    require(NEEDS_ZARR, "zarr", "fsspec")
    import fsspec

    if is_url(place):
        return fsspec.core.url_to_fs(str(place))
    return fsspec.filesystem("file"), Path(place).absolute().as_posix()  # a name such as ~ or a::b means itself


def read_json(files: AbstractFileSystem, path: str) -> dict[str, Any]:
    """Read a JSON object of a store.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, too deep, too large, or something else.
    """
    info = files.info(path)
    if info["type"] != "file" or int(info["size"] or 0) > MAX_BYTES:
        raise ValueError(f"{path} is no file of JSON")
    try:
        found = json.loads(files.cat_file(path))
    except RecursionError as error:
        raise ValueError(f"{path} is too deep") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no object")
    return found


def read_attributes(files: AbstractFileSystem, folder: str) -> dict[str, Any]:
    """Read the attributes of a group of zarr format 3; format 2, which may name any code as a filter, is not read.

    Raises:
        FileNotFoundError: if there is no group.
        ValueError: if it is damaged or something else.
    """
    found = read_json(files, f"{folder}/zarr.json")
    attributes = found.get("attributes")
    if found.get("zarr_format") != 3 or found.get("node_type") != "group" or not isinstance(attributes, dict):
        raise ValueError(f"{folder} is no group of zarr format 3")
    return attributes


def checksum(value: Any) -> str:
    """Return the SHA-256 of a value made of what JSON knows; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def recipe_checksum(recipe: Recipe) -> str:
    """Return the checksum of a recipe without the version of mmccd: what the cases of one store have in common."""
    return checksum({k: v for k, v in recipe.items() if k != "mmccd"})


def sealed(name: str, value: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of a group that holds `value` under `name`, with its checksum."""
    return {name: value, "sha256": checksum(value)}


def slice_checks(images: np.ndarray, masks: np.ndarray) -> list[str]:
    """Return a checksum of each slice over all that the store keeps of it: 64 bits of SHA-256, as hexadecimal digits.

    Args:
        images: (n m size size) float16.
        masks: (n 2 size size) uint8.
    """
    return [hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest()[:16] for image, mask in zip(images, masks)]


def read_store(place: Place) -> Recipe | None:
    """Return the recipe of a store; None where there is nothing yet.

    Raises:
        ValueError: if what is there is something else, damaged, or of another format.
    """
    no_store = "what is there is not a store of slices, or its zarr.json is damaged"
    no_store = store_error(place, no_store, "choose another place, or make one with mmccd prepare")
    if not is_url(place) and Path(place).exists():
        if not Path(place).is_dir():
            raise store_error(place, "it is a file, not a folder", "choose another place")
        with store_errors(place):
            names = [p.name for p in Path(place).iterdir() if not is_temporary(p.name)]
        if not names:
            return None
        if "zarr.json" not in names:
            raise no_store
    open_place(place)  # refuses what can be no place
    with store_errors(place):
        try:
            attributes = read_attributes(*open_files(place))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise no_store from error
    if "recipe" not in attributes:
        raise no_store
    return check_recipe_of(place, attributes)


def is_temporary(name: str) -> bool:
    """Tell whether a name in a store is that of its lock, or of what is being written by us or by zarr."""
    return name == LOCK or bool(PART.fullmatch(name)) or bool(re.fullmatch(r"zarr\.\w+\.partial", name))


def check_recipe_of(place: Place, attributes: dict[str, Any]) -> Recipe:
    """Return the recipe in the attributes of a store's group.

    Raises:
        ValueError: if it is damaged, or of a format that this version does not know.
    """
    recipe, todo = attributes["recipe"], "prepare the data again in another place"
    number = recipe.get("format") if isinstance(recipe, dict) else None
    if type(number) is int and not 1 <= number <= FORMAT:
        wrong = f"it has format {number}, and this version of mmccd knows formats 1 to {FORMAT}"
        raise store_error(place, wrong, f"update mmccd, or {todo}")
    checked(recipe, StoredRecipe, place, todo)
    if number != 1 and attributes.get("sha256") != checksum(recipe):
        raise store_error(place, "its recipe is damaged", todo)
    if len(set(recipe["modalities"])) < len(recipe["modalities"]):
        raise store_error(place, "its recipe has a modality twice", todo)
    try:
        check_method(recipe["normalisation"])
    except ValueError as error:
        raise store_error(place, str(error).rstrip("."), todo) from error
    return recipe if number != 1 else {"fov": FOV} | recipe


def read_cases(place: Place, recipe: Recipe) -> Cases:
    """Read the records of all cases of a store; a case counts once its record is written.

    Raises:
        ValueError: if the store cannot be read.
    """
    found = Cases({}, [], {})
    with store_errors(place):
        files, root = open_files(place)
        folders = [p["name"] for p in files.ls(root, detail=True) if p["type"] != "file" and files.isdir(p["name"])]
        for id in sorted({name.rstrip("/").rsplit("/", 1)[-1] for name in folders}):
            if id.startswith("."):
                continue
            try:
                attributes = read_attributes(files, f"{root}/{id}")
                if not attributes:
                    found.unfinished.append(id)
                    continue
                found.records[id] = check_record(place, id, attributes, recipe)
            except FileNotFoundError:
                if any(files.exists(f"{root}/{id}/{name}") for name in ARRAYS):
                    found.damaged[id] = "its record is missing"
            except ValueError as error:
                found.damaged[id] = str(error) if isinstance(error, WrongRecordError) else "its record is damaged"
    return found


class WrongRecordError(ValueError):
    """A record that is whole, but not that of this case in this store."""


def check_record(place: Place, id: str, attributes: dict[str, Any], recipe: Recipe) -> Record:
    """Return the record in the attributes of a case's group.

    Raises:
        ValueError: if it is damaged; `WrongRecordError` if it is another's.
    """
    record = attributes.get("case")
    checked(record, StoredRecord, f"{place}/{id}")
    assert isinstance(record, dict)
    if recipe["format"] == 1:
        return record
    if attributes.get("sha256") != checksum(record) or len(record["checks"]) != len(record["rows"]):
        raise ValueError(f"{place}/{id} has another checksum")
    if record["id"] != id:
        raise WrongRecordError(f"what is there is {record['id']}")
    if record["recipe"] != recipe_checksum(recipe):
        raise WrongRecordError("it was prepared in another way than the store says")
    return record


def read_records(place: Place) -> dict[str, Record]:
    """Return the records of the whole cases by id, sorted."""
    recipe = read_store(place)
    return read_cases(place, recipe).records if recipe else {}
