""""""

import os
import re
from pathlib import Path

from mmccd.errors import display_name, file_error
from mmccd.phantom import MODALITIES

NIFTI = re.compile(r"\.(nii|NII)(\.(gz|GZ))?$")


NAMES = dict(flair=r"(t2[-_]?)?flair|t2f", t1=r"t1[nw]?", t1ce=r"t1[-_]?(ce|c|gd)", t2=r"t2w?", seg=r"segm?")


def split_ending(
    path,  # path of a NIfTI file
) -> tuple:  # (what stands before the modality, the modality or None)
    "Split `Ann_t1ce.nii.gz` into `('Ann', 't1ce')`, in any BraTS naming since 2018."
    stem = NIFTI.sub("", Path(path).name)
    for modality, names in NAMES.items():
        found = re.fullmatch(rf"(?:(.*?)[\W_]+)?({names})", stem, flags=re.I)
        if found and modality == "t1" and "_ce-" in stem.lower():
            modality = "t1ce"  # BIDS: sub-1_ce-gd_T1w
        if found and not re.search(r"[\W_](to|in)$", found[1] or ""):
            return found[1] or "", modality  # t1_to_flair is a T1 image
    return stem, None


OTHER = r"seg\w*|\w*mask|labels?|lesions?|rois?|anomaly|prob\w*|map|star|pre|post|contrast|ce|gad\w*"  # words that make an image something else


def split_name(
    path,  # path of a NIfTI file
) -> tuple:  # (what stands before the modality, the modality or None)
    "Split a name at the modality it ends in, or else at the only one it mentions."
    before, modality = split_ending(path)

    def token(words):
        return re.compile(rf"(?<![^\W_])(?:{words})(?![^\W_])", re.I)

    kinds = [f"(?P<{m}>{NAMES[m]})" for m in ("flair", "t1ce", "t1", "t2")]  # the longer names first
    found = [] if modality else list(token("|".join(kinds)).finditer(before))
    if len({m.lastgroup for m in found}) != 1 or token(OTHER).search(
        before[: found[0].start()] + before[found[0].end() :]
    ):
        return before, modality
    return before[: found[0].start()].rstrip("-_. "), found[0].lastgroup


def nifti_files(
    folder,  # path of a folder
) -> list:  # paths of its NIfTI files, sorted by name, without hidden ones
    "The NIfTI files that lie directly in `folder`."
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


def case_files(
    folder,  # path of the folder of one case
) -> dict:  # path by modality: "flair", "t1", "t1ce", "t2", "seg", those that are there
    "Pair the files of a case by what their names say, never by their order."
    paths, files = nifti_files(folder), {}
    for modality in NAMES:
        claims = [p for p in paths if split_ending(p)[1] == modality] or [
            p for p in paths if split_name(p)[1] == modality
        ]
        if len(claims) > 1:
            raise ambiguous_modality_error(folder, modality, *claims[:2])
        if claims:
            files[modality] = claims[0]
    return files


def ambiguous_modality_error(
    folder,  # where they lie
    modality: str,  # what both claim to be
    first,  # one file
    second,  # and the other
) -> ValueError:  # to be raised
    "One patient twice, or several patients in one folder?"
    before, other = split_name(first)[0], split_name(second)[0]
    wrong, several = (
        f"{first.name} and {second.name} both claim to be {modality}",
        f"{folder}/*{first.name[len(before) :]}",
    )
    if before == other or modality == "seg":
        return file_error(folder, wrong, "keep one of them")
    return file_error(
        folder,
        f"{wrong}, as if several patients lay in one folder",
        f"name the files themselves ({several}), or give each patient a folder",
    )


def case_id(
    path,  # path of a case's folder, or of one NIfTI file
) -> str:  # a name for the results
    "The folder's name, or the file's name without its modality."
    path = Path(display_name(os.path.abspath(path)))
    if path.name == "healthy_twin":
        return f"{case_id(path.parent)}_healthy_twin"
    if path.name == "anat":
        return common_name(path)
    if path.is_dir() or not NIFTI.search(path.name):
        return path.name
    return split_name(path)[0] or case_id(path.parent)


def common_name(
    folder,  # path of a folder called `anat`
) -> str:  # such as sub-01 or sub-01_ses-2
    "What the names of the images in a folder have in common; where that is nothing, the folder above."
    names = [split_name(p)[0].split("_") for p in Path(folder).glob("*.nii*") if split_name(p)[1]]
    return "_".join(os.path.commonprefix(names)) or Path(folder).parent.name


RESULT = re.compile(r"_(anomaly|segmentation)\.nii(\.gz)?$")  # what `detect` writes is no case


def expand_cases(
    path: Path,  # a case, a NIfTI file, or a folder with cases somewhere below it
) -> list:  # paths of cases, sorted by name
    "Cases under `path`; below a case there are no others."
    try:
        files = nifti_files(path) if path.is_dir() else []
    except ValueError:
        return [path]  # it cannot be opened: reading the case will say so
    if not path.is_dir() or any(split_name(p)[1] in MODALITIES for p in files):
        return [path]
    below = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    below = [p for p in below if p.name == "anat"] or below  # BIDS: beside it lie func, dwi and others
    return [case for p in below for case in expand_cases(p)] or (
        [path] if any(not RESULT.search(p.name) for p in files) else []
    )


def find_cases(
    paths,  # one path or several: folders of cases, case folders, NIfTI files
) -> list:  # (id, path) pairs
    "List the cases among `paths`, in the order given and sorted within a folder."
    found = {}
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        for case in expand_cases(Path(path)) or [Path(path)]:
            other = found.setdefault(case_id(case), case)
            if os.path.realpath(other) != os.path.realpath(case):  # the same case twice is no harm
                raise ValueError(
                    f"{display_name(other)} and {display_name(case)} are both called {case_id(case)}; rename one, or run them apart."
                )
    return list(found.items())


def choose_files(
    path,  # folder of one case, or a single NIfTI file
    modalities=None,  # a modality or a list of them; None takes all, and reads that of a single file from its name
) -> tuple:  # (path by modality, path of the segmentation or None)
    "Which files to read."
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
        raise file_error(
            path, f"it has no {missing[0]}, only {', '.join(have)}", "add that file or choose another modality"
        )
    return {m: files[m] for m in wanted or have}, files.get("seg")


def no_images_error(
    folder,  # path of a folder that exists
) -> ValueError:  # to be raised
    "Why a folder is no case."
    if nifti_files(folder):
        return file_error(folder, "no NIfTI file in it is named after a modality", "name files like ID_flair.nii.gz")
    dicom = any(Path(folder).rglob("*.[dD][cC][mM]"))
    if dicom:
        return file_error(folder, "it holds DICOM files (.dcm) and no NIfTI file", "convert them with dcm2niix")
    return file_error(folder, "it holds no NIfTI file", "name a folder with files like ID_flair.nii.gz")


def one_modality(
    path,  # a single NIfTI file
    wanted: list,  # what the caller says it is; empty to read it from the name
) -> str:  # the modality
    "The modality of a single file; a name and a caller that disagree are an error."
    name = split_name(path)[1]
    if not NIFTI.search(Path(path).name):
        raise file_error(path, "it is not a NIfTI file (.nii or .nii.gz)", "convert it first")
    if name == "seg":
        raise file_error(path, "its name says that it is a segmentation", "name the image instead")
    if not wanted and not name:
        raise file_error(path, "its name tells no modality", "say which with --input (modalities= in Python)")
    if len(wanted) > 1 or (wanted and name not in (None, wanted[0])):
        todo = f"give --input {name}, or name the right file" if name else "name the folder of the case"
        raise file_error(path, f"it is one file, {name or 'of one modality'}, not {' and '.join(wanted)}", todo)
    return (wanted or [name])[0]
