"""Which file is which: cases below a folder, and the modality that a file's name tells."""

import os
import re
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path

from mmccd.anatomy import MODALITIES
from mmccd.errors import display_name, file_error

PathLikeStr = str | PathLike[str]

NIFTI = re.compile(r"\.(nii|NII)(\.(gz|GZ))?$")
# what a modality is called at the end of a file's name
NAMES = dict(flair=r"(t2[-_]?)?flair|t2f", t1=r"t1[nw]?", t1ce=r"t1[-_]?(ce|c|gd)", t2=r"t2w?", seg=r"segm?")
# words that make an image something else than a plain scan
OTHER = r"seg\w*|\w*mask|labels?|lesions?|rois?|anomaly|prob\w*|map|star|pre|post|contrast|ce|gad\w*"
RESULT = re.compile(r"_(anomaly|segmentation)\.nii(\.gz)?$")  # what `detect` writes is no case


def split_ending(path: PathLikeStr) -> tuple[str, str | None]:
    """Split `Ann_t1ce.nii.gz` into ("Ann", "t1ce"): any BraTS naming since 2018, and BIDS.

    Returns:
        What stands before the modality, and the modality; the whole stem and None where the name ends in none.
    """
    stem = NIFTI.sub("", Path(path).name)
    for modality, names in NAMES.items():
        found = re.fullmatch(rf"(?:(.*?)[\W_]+)?({names})", stem, flags=re.I)
        if found and modality == "t1" and "_ce-" in stem.lower():
            modality = "t1ce"  # BIDS: sub-1_ce-gd_T1w
        if found and not re.search(r"[\W_](to|in)$", found[1] or ""):  # t1_to_flair is a T1 image
            return found[1] or "", modality
    return stem, None


def split_name(path: PathLikeStr) -> tuple[str, str | None]:
    """Split a file's name at the modality it ends in, or else at the only one it mentions.

    Returns:
        What stands before the modality, and the modality; None where the name tells none, or several.
    """
    before, modality = split_ending(path)

    def word(pattern: str) -> re.Pattern[str]:
        return re.compile(rf"(?<![^\W_])(?:{pattern})(?![^\W_])", re.I)

    kinds = [f"(?P<{m}>{NAMES[m]})" for m in ("flair", "t1ce", "t1", "t2")]  # the longer names first
    found = [] if modality else list(word("|".join(kinds)).finditer(before))
    if len({m.lastgroup for m in found}) != 1:
        return before, modality
    first = found[0]
    if word(OTHER).search(before[: first.start()] + before[first.end() :]):
        return before, modality
    return before[: first.start()].rstrip("-_. "), first.lastgroup


def nifti_files(folder: PathLikeStr) -> list[Path]:
    """Return the NIfTI files that lie directly in a folder, sorted by name, without hidden ones.

    Raises:
        ValueError: if there is no such folder, or it cannot be opened.
    """
    folder = Path(folder)
    if not folder.exists():
        raise file_error(folder, "there is no such file or folder", "check the path")
    if not folder.is_dir():
        raise file_error(folder, "it is a file, not a folder", "name the folder of the case")
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise file_error(folder, "the folder cannot be opened", "check its permissions") from error
    return [p for p in paths if NIFTI.search(p.name) and not p.name.startswith(".") and (p.is_file() or not p.exists())]


def case_files(folder: PathLikeStr) -> dict[str, Path]:
    """Pair the files of a case by what their names say, never by their order.

    Returns:
        Path by modality ("flair", "t1", "t1ce", "t2", "seg"), those that are there.

    Raises:
        ValueError: as `nifti_files`, or if two files claim to be the same modality.
    """
    paths, files = nifti_files(folder), {}
    for modality in NAMES:
        by_ending = [p for p in paths if split_ending(p)[1] == modality]
        claims = by_ending or [p for p in paths if split_name(p)[1] == modality]
        if len(claims) > 1:
            raise ambiguous_modality_error(folder, modality, *claims[:2])
        if claims:
            files[modality] = claims[0]
    return files


def ambiguous_modality_error(folder: PathLikeStr, modality: str, first: Path, second: Path) -> ValueError:
    """Return the error for two files of one modality: the same patient twice, or several patients in one folder."""
    before, other = split_name(first)[0], split_name(second)[0]
    wrong = f"{first.name} and {second.name} both claim to be {modality}"
    if before == other or modality == "seg":
        return file_error(folder, wrong, "keep one of them")
    pattern = f"{folder}/*{first.name[len(before) :]}"
    return file_error(
        folder,
        f"{wrong}, as if several patients lay in one folder",
        f"name the files themselves ({pattern}), or give each patient a folder",
    )


def case_id(path: PathLikeStr) -> str:
    """Return a name for the results of the case at `path`: the folder's name, or the file's without its modality."""
    path = Path(display_name(os.path.abspath(path)))
    if path.name == "healthy_twin":
        return f"{case_id(path.parent)}_healthy_twin"
    if path.name == "anat":
        return common_name(path)
    if path.is_dir() or not NIFTI.search(path.name):
        return path.name
    return split_name(path)[0] or case_id(path.parent)


def common_name(folder: PathLikeStr) -> str:
    """Return what the names of the images in a BIDS folder `anat` have in common, such as sub-01_ses-2.

    Where that is nothing, the name of the folder above.
    """
    names = [split_name(p)[0].split("_") for p in Path(folder).glob("*.nii*") if split_name(p)[1]]
    common: list[str] = []
    for words in zip(*names):
        if len(set(words)) > 1:
            break
        common.append(words[0])
    return "_".join(common) or Path(folder).parent.name


def expand_cases(path: Path) -> list[Path]:
    """Return the cases at or somewhere below `path`, sorted by name; below a case there are no others."""
    try:
        files = nifti_files(path) if path.is_dir() else []
    except ValueError:
        return [path]  # it cannot be opened: reading the case will say so
    if not path.is_dir() or any(split_name(p)[1] in MODALITIES for p in files):
        return [path]
    below = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    below = [p for p in below if p.name == "anat"] or below  # BIDS: beside it lie func, dwi and others
    found = [case for p in below for case in expand_cases(p)]
    return found or [path] * any(not RESULT.search(p.name) for p in files)


def find_cases(paths: PathLikeStr | Iterable[PathLikeStr]) -> list[tuple[str, Path]]:
    """List the cases among `paths` as (id, path), in the order given and sorted within a folder.

    Args:
        paths: one path or several: folders of cases, case folders, NIfTI files.

    Raises:
        ValueError: if two different cases have the same id.
    """
    found: dict[str, Path] = {}
    for path in [paths] if isinstance(paths, str | PathLike) else paths:
        for case in expand_cases(Path(path)) or [Path(path)]:
            id = case_id(case)
            other = found.setdefault(id, case)
            if os.path.realpath(other) != os.path.realpath(case):  # the same case twice is no harm
                both = f"{display_name(other)} and {display_name(case)} are both called {id}"
                raise ValueError(f"{both}; rename one, or run them apart.")
    return list(found.items())


def choose_files(
    path: PathLikeStr, modalities: str | Sequence[str] | None = None
) -> tuple[dict[str, PathLikeStr], Path | None]:
    """Decide which files of a case to read.

    Args:
        path: folder of one case, or a single NIfTI file.
        modalities: which; None takes all, and reads that of a single file from its name.

    Returns:
        Path by modality, and the path of the segmentation or None.

    Raises:
        ValueError: if there is no image, a modality is missing, or a name does not tell what is needed.
    """
    wanted = [modalities] if isinstance(modalities, str) else list(modalities or [])
    if display_name(path) != str(path):
        raise file_error(path, "its name has characters that cannot be read", "rename it")
    if Path(path).is_file():
        return {one_modality(path, wanted): path}, None
    files = case_files(path)
    have = [m for m in MODALITIES if m in files]
    if not have:
        raise no_images_error(path)
    missing = [m for m in wanted if m not in have]
    if missing:
        wrong = f"it has no {missing[0]}, only {', '.join(have)}"
        raise file_error(path, wrong, "add that file or choose another modality")
    return {m: files[m] for m in wanted or have}, files.get("seg")


def no_images_error(folder: PathLikeStr) -> ValueError:
    """Return the error that says why a folder that exists is no case."""
    if nifti_files(folder):
        return file_error(folder, "no NIfTI file in it is named after a modality", "name files like ID_flair.nii.gz")
    dicom = any(Path(folder).rglob("*.[dD][cC][mM]"))
    if dicom:
        return file_error(folder, "it holds DICOM files (.dcm) and no NIfTI file", "convert them with dcm2niix")
    return file_error(folder, "it holds no NIfTI file", "name a folder with files like ID_flair.nii.gz")


def one_modality(path: PathLikeStr, wanted: Sequence[str]) -> str:
    """Return the modality of a single file.

    Args:
        path: a single NIfTI file.
        wanted: what the caller says it is; empty to read it from the name.

    Raises:
        ValueError: if it is no NIfTI image, neither name nor caller tells, or the two disagree.
    """
    name = split_name(path)[1]
    if not NIFTI.search(Path(path).name):
        raise file_error(path, "it is not a NIfTI file (.nii or .nii.gz)", "convert it first")
    if name == "seg":
        raise file_error(path, "its name says that it is a segmentation", "name the image instead")
    if len(wanted) > 1 or (wanted and name not in (None, wanted[0])):
        todo = f"give --input {name}, or name the right file" if name else "name the folder of the case"
        raise file_error(path, f"it is one file, {name or 'of one modality'}, not {' and '.join(wanted)}", todo)
    if wanted:
        return wanted[0]
    if not name:
        raise file_error(path, "its name tells no modality", "say which with --input (modalities= in Python)")
    return name
