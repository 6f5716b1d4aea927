"""Values from outside are checked before anything believes them: types, ranges, and numbers that are numbers.

A kind says what a value has to be: a dataclass, such as a detector's config, which takes no other fields than its own;
or a `TypedDict` (that of `typing_extensions`) with a field for each value that matters, which keeps what else there
is; `@closed` makes it take no others. `Annotated[float, Ge(0)]` gives a range.
"""

import json
import os
import stat
from collections.abc import Sequence
from functools import cache
from os import PathLike
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from annotated_types import Ge, Le, MaxLen, MinLen

from mmccd.errors import display_name, file_error

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")

Natural = Annotated[int, Ge(0), Le(2**53)]  # whole numbers that every reader of JSON takes for the same
Share = Annotated[float, Ge(0), Le(1)]
# settings of networks: ranges far beyond what is useful, so that no file makes us build what no computer can hold
Pixels = Annotated[int, Ge(1), Le(1024)]  # along a side of a slice
Frequency = Annotated[float, Ge(0), Le(1024)]  # cycles along a side of a slice
SquaredError = Annotated[float, Ge(0), Le(1e9)]  # of a pixel
Millimetres = Annotated[float, Ge(20), Le(1000)]  # along a side of a slice
Channels = Annotated[int, Ge(1), Le(4096)]
Few = Annotated[int, Ge(1), Le(64)]  # blocks, heads, multiples
Count = Annotated[int, Ge(1), Le(100_000)]  # of steps, of numbers in a latent
Scales = Annotated[tuple[Few, ...], MinLen(1), MaxLen(11)]  # of a network: multiples of its channels
Names = Annotated[tuple[str, ...], MaxLen(8)]  # modalities

MAX_BYTES = 10**8  # of a JSON file; the largest of ours, the records of some 100,000 cases, stay below it
TODO = "put back a good copy of it, or delete it and make it again"


def closed(kind: type[T]) -> type[T]:
    """Make a `TypedDict` refuse fields that it does not name."""
    kind.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[missing-attribute]
    return kind


def read_checked(path: str | PathLike[str], kind: type[T], todo: str = TODO) -> T:
    """Read a JSON file that has to be of a kind.

    Args:
        path: The file, UTF-8.
        kind: What it has to hold.
        todo: What to do where it holds something else, for the error.

    Returns:
        The value; tuples and dataclasses where the kind has them.

    Raises:
        ValueError: It cannot be read, is no JSON, is too large or too deep, or a field has a wrong value: one sentence
            that names the file and the field.
    """
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)  # a pipe would be waited for
        content = None
        if regular:
            with open(path, "rb") as file:
                content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise file_error(path, reason[0].lower() + reason[1:], todo) from error
    if content is None:
        raise file_error(path, "it is no file", todo)
    if len(content) > MAX_BYTES:
        raise file_error(path, f"it is larger than {MAX_BYTES / 1e6:.0f} MB", todo)
    return checked_json(content, kind, path, todo)


def checked(value: Any, kind: type[T], path: str | PathLike[str], todo: str = TODO) -> T:
    """Check a value that has been read already, as from YAML, from a store's attributes or from a checkpoint.

    Args:
        value: Made of what JSON knows; tuples count as lists.
        kind: What it has to be.
        path: The file or folder it comes from, for the error.
        todo: What to do where it is something else, for the error.

    Returns:
        The value; tuples and dataclasses where the kind has them.

    Raises:
        ValueError: It is not of that kind: one sentence that names the file and the field.
    """
    try:
        content = json.dumps(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        reason = "too deep" if isinstance(error, RecursionError) else "no JSON"
        raise file_error(path, f"it holds what is {reason}", todo) from error
    return checked_json(content, kind, path, todo)


def checked_json(content: bytes, kind: type[T], path: str | PathLike[str], todo: str = TODO) -> T:
    """Check the content of a JSON file that has been read already.

    Args:
        content: Of the file, UTF-8.
        kind: What it has to hold.
        path: The file, for the error.
        todo: What to do where it holds something else, for the error.

    Returns:
        The value; tuples and dataclasses where the kind has them.

    Raises:
        ValueError: It is no JSON, or not of that kind: one sentence that names the file and the field.
    """
    from pydantic import ValidationError

    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        return _adapter(kind).validate_json(b"[" + content + b"]")[0]
    except ValidationError as error:
        raise file_error(path, _what_is_wrong(content, error), todo) from error


@cache
def _adapter(kind: type[T]) -> "TypeAdapter[tuple[T]]":
    """What checks JSON of that kind; in a tuple, since pydantic takes no rules beside a kind that may have its own."""
    from dataclasses import is_dataclass

    from pydantic import ConfigDict, TypeAdapter

    extra = "forbid" if is_dataclass(kind) else "allow"
    rules = ConfigDict(strict=True, allow_inf_nan=False, extra=extra, arbitrary_types_allowed=True)
    return TypeAdapter(tuple[kind], config=rules)  # type: ignore[not-a-type]


def _what_is_wrong(content: bytes, error: "ValidationError") -> str:
    """The first fault in a few words: the field, what it has to be, and what it is."""
    first = error.errors(include_url=False)[0]
    kind, words, missing = first["type"], first["msg"], first["type"] == "missing"
    if kind == "json_invalid" or not first["loc"] or (missing and len(first["loc"]) == 1):  # two values, or none
        return "it is damaged, or no JSON"
    field = _field(content, first["loc"][1:], missing)
    if missing:
        return f"the field {field} is missing"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"the field {field} is unknown"
    words = words.removeprefix("Value error, ").removeprefix("Input ")
    got = "" if kind == "value_error" else f", got {_short(first['input'])}"
    return f"{field}: {words}{got}" if field else f"what it holds {words}{got}"


def _field(content: bytes, loc: Sequence[str | int], missing: bool) -> str:
    """A place in JSON as `calibration.threshold`; what pydantic adds to name one of several types is left out."""
    here: Any = json.loads(content)
    words: list[str] = []
    for part in loc:
        inside = part in here if isinstance(here, dict) else isinstance(here, list) and part in range(len(here))
        if inside:
            words.append(str(part))
            here = here[part]
    words += [str(loc[-1])] if missing else []
    return display_name(".".join(words))


def _short(value: Any) -> str:
    text = json.dumps(value, default=repr)
    return display_name(text if len(text) <= 40 else text[:36] + " ...")
