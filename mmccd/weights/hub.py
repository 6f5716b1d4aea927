"""Where weights lie, by name: a folder, the package, or the Hugging Face hub, the only one that uses the network."""

import errno
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import NamedTuple, TypedDict, Unpack

from mmccd.errors import display_name
from mmccd.extras import require
from mmccd.files import user_path
from mmccd.weights.storage import CONFIG, TENSORS, read_about, variant_names

WEIGHTS = Path(__file__).parent
HUB = "hf:"  # before the id of a repository on the hub: nothing else that is typed makes us ask a network
PATIENCE = 300  # seconds for a detector's two files, a few MB
DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


class WeightsPlace(NamedTuple):
    """A folder with `config.json`, and which of its variants is meant (None: the first, or the only one)."""

    folder: Path
    variant: str | None


class HubOptions(TypedDict, total=False):
    """How a repository on the hub is read; keywords of `huggingface_hub.snapshot_download`."""

    revision: str | None  # branch, tag or commit; None: main
    token: str | bool | None  # None: HF_TOKEN or that of `hf auth login`, where there is one
    cache_dir: str | Path | None  # None: that of the hub's library, see HF_HOME
    force_download: bool
    local_files_only: bool


def packaged_places(root: Path | None = None) -> dict[str, WeightsPlace]:
    """Where packaged detectors lie, by name: the method, a dash and the variant where there are several.

    Args:
        root: A folder with a folder for each method; None: that of the package.
    """
    methods = sorted(p.parent for p in (root or WEIGHTS).glob(f"*/{CONFIG}"))
    found = {m: variant_names(read_about(m)) for m in methods}
    alone = {m.name: WeightsPlace(m, None) for m, names in found.items() if not names}
    return {f"{m.name}-{v}": WeightsPlace(m, v) for m, names in found.items() for v in names} | alone


def packaged() -> list[str]:
    """Short names of the detectors that come with the package, such as `"cycle-flair-t1"`, sorted."""
    return sorted(packaged_places())


def split_variant(name: str) -> tuple[str, str]:
    """Split the name of a detector into its place and the variant behind the last colon, "" where there is none."""
    place, _, variant = name.rpartition(":")
    is_drive = len(place) == 1 and variant[:1] in ("/", "\\")  # as in C:\weights
    return (name, "") if is_stored(name) or is_drive or not place else (place, variant)


def find_weights(
    name: str | Path | WeightsPlace, variant: str | None = None, **options: Unpack[HubOptions]
) -> WeightsPlace:
    """Find a stored detector; only a hub id uses the network.

    Args:
        name: A folder, a packaged name, or `hf:owner/name` for the hub. Folder and hub id may be followed by a colon
            and the variant that is meant, as in `"run:flair-t1"`. A place that was found before is given back.
        variant: The same in a word of its own.
        options: For the hub alone.

    Raises:
        ValueError: No such detector, or the hub cannot give it; one sentence says why.
    """
    if isinstance(name, WeightsPlace):
        return name
    name, places = str(name), packaged_places()
    if name.startswith(HUB) and not is_stored(name):
        place, _, after = name.removeprefix(HUB).partition(":")
        return WeightsPlace(download(place, **options), variant or after or None)
    place, after = split_variant(name)
    variant = variant or after or None
    if is_stored(place):
        return WeightsPlace(user_path(place), variant)
    if place in places and variant is None:
        return places[place]
    folder, shown = user_path(place), display_name(place)
    if folder.is_dir():
        raise ValueError(f"the folder {shown} holds no detector: {CONFIG} is missing")
    if folder.exists():
        raise ValueError(f"{shown} is a file, and a detector is kept in a folder")
    if place.count("/") == 1 and place[0] not in "/.~" and place[-1] != "/":
        raise ValueError(f"there is no folder {shown}; if it is on the Hugging Face hub, write {HUB}{shown}")
    known = ", ".join(sorted(places)) or "none"
    raise ValueError(f"unknown weights {display_name(name)!r}: give a folder, {HUB}owner/name, or one of {known}")


def is_stored(name: str) -> bool:
    """Is this a folder with a detector in it?"""
    return bool(name) and (user_path(name) / CONFIG).is_file()


def absolute_name(name: str) -> str | None:
    """The name of a folder with a detector, with its variant, as it is understood from any working directory.

    Returns:
        None where the name is that of no folder, but of the package or the hub.
    """
    if name.startswith(HUB) and not is_stored(name):
        return None
    head, variant = split_variant(name)
    return f"{user_path(head).absolute()}{variant and ':'}{variant}" if is_stored(head) else None


def download(name: str, **options: Unpack[HubOptions]) -> Path:
    """Fetch a detector's two files from the hub, or find them where an earlier call left them.

    Args:
        name: Hub id `owner/name`.
        options: Which revision, and how it is asked for.

    Returns:
        The folder they lie in, in the hub's cache.

    Raises:
        ValueError: Saying which of these it was: the hub does not know the name or keeps it private; it cannot be
            reached, or not in time; it is switched off; the disk takes no files; the files are no detector.
    """
    require("the Hugging Face hub", "hub")
    from huggingface_hub import snapshot_download

    done: Future[str] = Future()

    def fetch() -> None:
        try:
            done.set_result(snapshot_download(name, allow_patterns=[CONFIG, TENSORS], **options))
        except Exception as e:
            done.set_exception(e)

    try:
        Thread(target=fetch, daemon=True).start()  # which does not keep us from ending
        folder = Path(done.result(PATIENCE))
    except Exception as e:
        raise ValueError(explain_hub_error(name, e, **options)) from e
    for file in (CONFIG, TENSORS):
        if not (folder / file).is_file():
            raise ValueError(f"{name} on the hub holds no detector: {file} is missing")
    return folder


def explain_hub_error(name: str, error: Exception, **options: Unpack[HubOptions]) -> str:
    """One sentence about a download that failed: whose fault it is, and what to do about it."""
    from huggingface_hub import constants, errors

    if fault := disk_fault(error):
        where = f"cannot keep {name} from the hub in {options.get('cache_dir') or constants.HF_HUB_CACHE}"
        return f"{where}: {fault}; put that right, or set HF_HOME to another folder"
    if isinstance(error, errors.RepositoryNotFoundError):
        what = f"{name!r} cannot be fetched: the hub has no such repository or keeps it private"
        return f"{what}: check the name, or log in with `hf auth login`"
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return f"{name} on the hub holds no detector: {CONFIG} or {TENSORS} is missing"
    if sentence := explain_name_or_token(name, options.get("revision"), error):
        return sentence
    if options.get("local_files_only"):
        return f"{name} is not here yet, and local_files_only keeps us from asking the hub"
    if constants.HF_HUB_OFFLINE:
        return f"{name} is not here yet, and HF_HUB_OFFLINE keeps us from asking the hub: unset it, or give a folder"
    if not_reached(error):
        return f"{name} is not here yet, and the hub cannot be reached: check the network"
    return f"the hub could not give {name}: {in_one_line(error)}"


def explain_name_or_token(name: str, revision: str | None, error: Exception) -> str:
    """One sentence about what download and upload alike need: a possible name, a revision that is there, a token."""
    from huggingface_hub import errors

    if isinstance(error, errors.HFValidationError):
        return f"{name!r} can be no repository on the hub: check the spelling"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name} on the hub has no branch, tag or commit {revision!r}: check the spelling"
    if isinstance(error, errors.LocalTokenNotFoundError):
        return "there is no token for the hub here: log in with `hf auth login`, or set HF_TOKEN"
    return ""


def not_reached(error: Exception) -> bool:
    """Did no answer come from the hub? Then the error is the system's, or of the HTTP library."""
    from huggingface_hub import errors

    http = errors.HfHubHTTPError
    return isinstance(error, (OSError, *http.__bases__)) and not isinstance(error, http)


def in_one_line(error: Exception) -> str:
    """What an error says, and its class."""
    return f"{type(error).__name__}: {display_name(' '.join(str(error).split()))}"


def disk_fault(error: BaseException) -> str:
    """What the system says about the disk where that is behind an error, else ""."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in DISK_FAULTS:
            return cause.strerror or str(cause)
        cause = cause.__cause__ or cause.__context__
    return ""
