"""Which file is which: cases below a folder, and the files of a case by what their names say."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from mmccd.anatomy import MODALITIES
from mmccd.cases.filenames import NAMES, NIFTI, FileName, nfc, read_name
from mmccd.cases.folders import (
    COPY,
    PLAIN,
    SCAN,
    WHAT,
    derived_files,
    files_above,
    nifti_files,
    refuse_channels,
    related_files,
    subfolders,
)
from mmccd.cases.subjects import VISIT, known_subject
from mmccd.errors import display_name, file_error
from mmccd.files import user_path

PathLikeStr = str | PathLike[str]

RESULT = re.compile(r"_(anomaly|segmentation)\.nii(\.gz)?$")  # what `detect` writes is no case
NO_SUBJECTS = frozenset({"derivatives", "sourcedata", "code", "stimuli"})  # folders of a BIDS data set
LABELS = ("seg", "label")  # kinds of files that may show a lesion
SHOWN = 3  # names in a note


def split_name(path: PathLikeStr) -> tuple[str, str | None]:
    """Split `Ann_t1ce.nii.gz` into ("Ann", "t1ce"): any BraTS naming since 2018, BIDS, and many others.

    Returns:
        What stands before the modality, and the modality ("seg" of a lesion's segmentation); the whole stem and None
        where the name tells none, or has a word that leaves doubt (see `filenames.read_name`).
    """
    name = read_name(path)
    return name.before, name.modality


def split_ending(path: PathLikeStr) -> tuple[str, str | None]:
    """Do the same for a name that ends in its modality; of any other the whole stem, and None."""
    name = read_name(path)
    return (name.before, name.modality) if name.ends else (name.stem, None)


# ---- the files of a case


@dataclass
class CaseFiles:
    """The files of a case.

    Attributes:
        images: path by modality.
        seg: path of the lesion's segmentation, or None.
        notes: what a person should know of the choice, each as what follows "ID: ".
    """

    images: dict[str, PathLikeStr]
    seg: Path | None = None
    notes: list[str] = field(default_factory=list)


def case_files(folder: PathLikeStr) -> dict[str, Path]:
    """Pair the files of a case by what their names say, never by their order.

    Returns:
        Path by modality ("flair", "t1", "t1ce", "t2", "seg"), those that are there. An image without skull goes before
        the head, and a name that ends in its modality before one that mentions it.

    Raises:
        ValueError: as `nifti_files`, or if two files claim to be the same modality.
    """
    names = {p: read_name(p) for p in nifti_files(folder)}
    found = {m: choose_claim(folder, m, names)[0] for m in NAMES}
    return {m: p for m, p in found.items() if p}


def choose_claim(folder: PathLikeStr, modality: str, names: dict[Path, FileName]) -> tuple[Path | None, str]:
    """Return the file of a modality, and a note if another one is passed over for having its skull.

    Args:
        folder: of the case, for the error.
        modality: or "seg".
        names: of the files in it.

    Raises:
        ValueError: if two files claim to be it.
    """
    claims = [p for p, name in names.items() if name.modality == modality]
    stripped = [p for p in claims if names[p].stripped]
    heads = [p for p in claims if p not in stripped]
    owners = {names[p].owner for p in claims} - {""}
    note = ""
    if modality == "seg" or not stripped:
        claims = [p for p in claims if names[p].ends] or claims
    elif heads and len(owners) < 2:
        claims, note = stripped, f"{stripped[0].name} is read, not {heads[0].name}: it is the one without skull"
    if len(claims) > 1:
        raise ambiguous_modality_error(folder, modality, *claims[:2])
    return (claims[0] if claims else None), note


def ambiguous_modality_error(folder: PathLikeStr, modality: str, first: Path, second: Path) -> ValueError:
    """Return the error for two files of one modality: the same patient twice, or several patients in one folder."""
    one, other = read_name(first), read_name(second)
    wrong = f"{first.name} and {second.name} both claim to be {modality}"
    if modality == "seg":
        return file_error(folder, wrong, "keep one of them")
    if one.owner == other.owner or "" in (one.owner, other.owner):
        return file_error(folder, wrong, "keep one of them, or name the file itself")
    pattern = f"{folder}/*{first.name[len(one.before) :]}"
    return file_error(
        folder,
        f"{wrong}, as if several patients lay in one folder",
        f"name the files themselves ({pattern}), or give each patient a folder",
    )


def find_files(path: PathLikeStr, modalities: str | Sequence[str] | None = None) -> CaseFiles:
    """Decide which files of a case to read; only what is asked for can be refused.

    Args:
        path: folder of one case, or a single NIfTI file.
        modalities: which; None takes all that are clear (with a note on the others), and reads that of a single file
            from its name.

    Raises:
        ValueError: if there is no image, a modality is missing, or a name does not tell what is needed.
    """
    wanted = [modalities] if isinstance(modalities, str) else list(modalities or [])
    if display_name(path) != str(path):
        raise file_error(path, "its name has characters that cannot be read", "rename it")
    if Path(path).is_file():
        return single_file(Path(path), wanted)
    names = {p: read_name(p) for p in nifti_files(path)}
    if not any(name.modality in MODALITIES for name in names.values()):
        raise no_images_error(path, names)
    files, problem = CaseFiles({}), None
    for modality in wanted or MODALITIES:
        try:
            image, note = choose_claim(path, modality, names)
        except ValueError as error:
            if wanted:
                raise
            problem, image, note = error, None, f"its {modality} is left out, since two files claim to be it"
        files.images |= {modality: image} if image else {}
        files.notes += [note] if note else []
        if wanted and not image:
            raise missing_error(path, modality, names)
    if not files.images:
        raise problem or no_images_error(path, names)
    choose_truth(path, names, files)
    files.notes += derivative_notes(Path(path), files.images)
    return files


def single_file(path: Path, wanted: Sequence[str]) -> CaseFiles:
    """Return what to read where the user names a single file, with a note if it seems not to be the one to name."""
    modality, name = one_modality(path, wanted), read_name(path)
    files = CaseFiles({modality: path})
    if name.doubt:
        files.notes.append(f"it is read as {modality}, though its name says {name.doubt}")
    ending = path.name[len(NIFTI.sub("", path.name)) :]
    for word in () if name.stripped else ("brain", "bet", "stripped", "ss", "synthstrip", "hd-bet", "masked"):
        beside = path.with_name(f"{NIFTI.sub('', path.name)}_{word}{ending}")
        if beside.exists():
            files.notes.append(
                f"{beside.name} beside it is the one without skull: name that, if this one has its skull"
            )
            break
    return files


def choose_truth(path: PathLikeStr, names: dict[Path, FileName], files: CaseFiles) -> None:
    """Add the segmentation of the lesion, or a note that several files claim to be it.

    Where none lies beside images in a folder such as `pre`, the only one in the patient's folder above is it.
    """
    try:
        files.seg = choose_claim(path, "seg", names)[0]
    except ValueError:
        said = ", ".join([p.name for p, name in names.items() if name.kind == "seg"][:SHOWN])
        files.notes.append(f"no segmentation is read, since several files claim to be it ({said})")
        return
    if not files.seg and not any(name.kind == "label" for name in names.values()):
        elsewhere = [p for p in files_above(Path(path)) if read_name(p).kind == "seg"]
        files.seg = elsewhere[0] if len(elsewhere) == 1 else None


def possible_lesions(path: PathLikeStr) -> list[Path]:
    """Return the files that show a lesion of a case, or may do so, and are not read as its segmentation.

    Args:
        path: folder of one case, whose files count, and those of the same place in a BIDS data set's derivatives; or a
            single file, for which those beside it count whose names begin like its own, or with no name of a person.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    names = {p: read_name(p) for p in nifti_files(folder)}
    if path != folder:
        before = read_name(path).before
        found = {
            p: n
            for p, n in names.items()
            if n.start == 0 or (n.stem.startswith(before) and not n.stem[len(before) :][:1].isalnum())
        }
        return [p for p, n in found.items() if n.kind in LABELS]
    ours = {n.stem.removesuffix("_anomaly") for n in names.values() if n.stem.endswith("_anomaly")}  # from `detect`
    unsure = [p for p, n in names.items() if n.kind == "label" and n.stem.removesuffix("_segmentation") not in ours]
    segs = [p for p, n in names.items() if n.kind == "seg"]
    unsure += segs if len(segs) > 1 else []
    return unsure + [p for p in (*related_files(folder), *derived_files(folder)) if read_name(p).kind in LABELS]


def derivative_notes(folder: Path, images: dict[str, PathLikeStr]) -> list[str]:
    """Return a note where a BIDS data set's derivatives hold a copy without skull of an image that may have its own."""
    derived = {p: read_name(p) for p in derived_files(folder)}
    for p, name in derived.items():
        if name.stripped and name.modality in images and not read_name(images[name.modality]).stripped:
            return [
                f"{display_name(p)} is the one without skull: name its folder, if {name.modality} has its skull here"
            ]
    return []


def choose_files(
    path: PathLikeStr, modalities: str | Sequence[str] | None = None
) -> tuple[dict[str, PathLikeStr], Path | None]:
    """Return the paths of `find_files` alone: of the images by modality, and of the segmentation or None.

    Raises:
        ValueError: as `find_files`.
    """
    files = find_files(path, modalities)
    return files.images, files.seg


def missing_error(path: PathLikeStr, modality: str, names: dict[Path, FileName]) -> ValueError:
    """Return the error for a modality that a case does not have, or has under a name that leaves doubt."""
    for p, name in names.items():
        if name.kind == modality and name.doubt:
            wrong = f"{p.name} may be another image than plain {modality}, as its name says {name.doubt}"
            return file_error(path, wrong, f"rename it like ID_{modality}.nii.gz if it is {modality}")
    have = [m for m in MODALITIES if any(name.modality == m for name in names.values())]
    return file_error(path, f"it has no {modality}, only {', '.join(have)}", "add that file or choose another modality")


def no_images_error(folder: PathLikeStr, names: dict[Path, FileName] | None = None) -> ValueError:
    """Return the error that says why a folder that exists is no case."""
    names = names if names is not None else {p: read_name(p) for p in nifti_files(folder)}
    if doubtful := next((name.kind for name in names.values() if name.doubt), ""):
        return missing_error(folder, doubtful, names)
    if names:
        todo = "name files like ID_flair.nii.gz, or name the image itself and say which by --input"
        return file_error(folder, "no NIfTI file in it is named after a modality", todo)
    if aside := next((n for n in sorted(NO_SUBJECTS) if (Path(folder) / n).is_dir()), ""):
        wrong = f"it holds no NIfTI file outside {aside}, which is no subject's"
        return file_error(folder, wrong, f"name {Path(folder, aside)} if the images are there")
    if any(p.suffix.lower() == ".dcm" for p in files_below(folder)):
        return file_error(folder, "it holds DICOM files (.dcm) and no NIfTI file", "convert them with dcm2niix")
    if any(RESULT.search(p.name) for p in files_below(folder)):
        return file_error(folder, "it holds results of detect, and no scan", "name the folder with the scans")
    return file_error(folder, "it holds no NIfTI file", "name a folder with files like ID_flair.nii.gz")


def one_modality(path: PathLikeStr, wanted: Sequence[str]) -> str:
    """Return the modality of a single file.

    Args:
        path: a single NIfTI file.
        wanted: what the caller says it is; empty to read it from the name.

    Raises:
        ValueError: if it is no NIfTI image, neither name nor caller tells, or the two disagree.
    """
    name = read_name(path)
    if not NIFTI.search(Path(path).name):
        raise file_error(path, "it is not a NIfTI file (.nii or .nii.gz)", "convert it first")
    if name.kind in ("seg", "mask", "label"):
        what = "a mask" if name.kind == "mask" else "a segmentation"
        raise file_error(path, f"its name says that it is {what}", "name the image instead")
    if RESULT.search(Path(path).name):
        raise file_error(path, "its name says that it is a map from detect", "name the image instead")
    said = name.modality
    if wanted and name.doubt and wanted[0] not in (name.kind, *name.doubt.lower().split(", ")):
        said = None if (name.kind, wanted[0]) == ("t1", "t1ce") else name.kind
    if len(wanted) > 1 or (wanted and said not in (None, wanted[0])):
        todo = f"give --input {said}, or name the right file" if said else "name the folder of the case"
        raise file_error(path, f"it is one file, {said or 'of one modality'}, not {' and '.join(wanted)}", todo)
    if wanted:
        return wanted[0]
    if name.doubt:
        wrong = f"it may be another image than plain {name.kind}, as its name says {name.doubt}"
        raise file_error(path, wrong, "say which with --input (modalities= in Python)")
    if not said:
        raise file_error(path, "its name tells no modality", "say which with --input (modalities= in Python)")
    return said


# ---- the cases below a folder


def case_id(path: PathLikeStr) -> str:
    """Return a name for the results of the case at `path`, in NFC: the folder's, or the file's without its modality.

    Where the folder's name says only when, as `week-044` does, or what, as `pre` does, the name of the folder above
    goes before it, and where it says no more than `nifti`, in its place.
    """
    path = Path(display_name(os.path.abspath(path)))
    if path.name == "healthy_twin":
        return f"{case_id(path.parent)}_healthy_twin"
    if path.name == "anat":
        return common_name(path)
    if path.parent.name and not path.is_file():
        if PLAIN.fullmatch(path.name):
            return case_id(path.parent)
        if VISIT.fullmatch(path.name) or WHAT.fullmatch(path.name):
            return f"{case_id(path.parent)}_{nfc(path.name)}"
        if SCAN.fullmatch(path.name) and (person := common_person(path)):
            return f"{person}_{path.name}"
    if path.is_dir() or not NIFTI.search(path.name):
        return nfc(path.name)
    return split_name(path)[0] or case_id(path.parent)


def common_person(folder: Path) -> str:
    """Return the person that the names of all files in a folder speak of, as public data sets write it; else ""."""
    people = {known_subject(read_name(p).before) for p in folder.glob("*.nii*")}
    return people.pop() if len(people) == 1 else ""


def common_name(folder: PathLikeStr) -> str:
    """Return what the names of the images in a BIDS folder `anat` have in common, such as sub-01_ses-2.

    Where that is nothing, the name of the folder above.
    """
    images = [read_name(p) for p in Path(folder).glob("*.nii*")]
    names = [name.before.split("_") for name in images if name.modality]
    common: list[str] = []
    for words in zip(*names):
        if len(set(words)) > 1:
            break
        common.append(words[0])
    if common and common[0].startswith("sub-"):
        common = [w for w in common if w[:4] in ("sub-", "ses-")]
    return "_".join(common) or nfc(Path(folder).parent.name)


def files_below(folder: PathLikeStr) -> Iterator[Path]:
    """Yield the files below a folder, however deep, without following links."""
    left = [Path(folder)]
    while left:
        here = left.pop()
        left += subfolders(here)
        try:
            with os.scandir(here) as entries:
                yield from [here / e.name for e in entries if e.is_file()]
        except OSError:
            continue


def case_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder where cases may be, sorted; where there is `anat`, BIDS has them only in it."""
    below = [p for p in (*subfolders(folder), *subfolders(folder, links=True)) if p.name.lower() not in NO_SUBJECTS]
    if any(p.name == "anat" for p in below):
        below = [p for p in below if p.name == "anat" or p.name.startswith("ses-")]
    return below


def folder_kind(folder: Path) -> tuple[str, list[Path]]:
    """Return what a folder seems to be, and the images in it.

    Returns:
        "case": its images are named for it, or nothing but other copies of them lies below it, or it cannot be opened;
        "above": images that are not its own lie above other folders; "other": NIfTI files, but no image of a modality;
        "" nothing of the kind.
    """
    try:
        files = nifti_files(folder)
    except ValueError:
        return "case", []  # reading it will say why
    images = [p for p in files if read_name(p).modality in MODALITIES]
    if not images:
        return ("other" if any(not RESULT.search(p.name) for p in files) else ""), []
    here = Path(os.path.abspath(folder))
    names, owners = [nfc(n).lower() for n in (here.name, here.parent.name) if n], [read_name(p) for p in images]

    def same(a: str, b: str) -> bool:
        return bool(b) and a.startswith(b) and not a[len(b) :][:1].isalnum()

    own = here.name == "anat" or any(
        same(o.stem.lower(), n) or same(n, o.before.lower()) for o in owners for n in names
    )
    if own or all(COPY.fullmatch(p.name) for p in case_folders(folder)):
        return "case", images
    return "above", images


def expand_cases(path: Path, notes: list[str] | None = None) -> list[Path]:
    """Return the cases at or somewhere below `path`, sorted by name; below a case there are no others.

    Each real folder is looked at once, links after everything else and never upwards.

    Args:
        path: folder or file.
        notes: is given a sentence on each image that lies above folders with cases and belongs to none.
    """
    if not path.is_dir():
        return [path]
    kinds: dict[Path, tuple[str, list[Path]]] = {}
    seen = {folder_identity(p) for p in Path(os.path.realpath(path)).parents}
    left, links = [path], []
    while left or links:
        here = left.pop() if left else links.pop(0)
        if (identity := folder_identity(here)) in seen:
            continue
        seen.add(identity)
        kinds[here] = folder_kind(here)
        below = case_folders(here) if kinds[here][0] != "case" else []
        left += [p for p in reversed(below) if not p.is_symlink()]
        links += [p for p in below if p.is_symlink()]
    return sort_out(path, kinds, notes if notes is not None else [])


def folder_identity(folder: Path) -> object:
    """Return what tells a folder from all others, by whatever path it is reached."""
    try:
        status = os.stat(folder)
    except OSError:
        return folder  # reading it will say what is wrong
    return status.st_dev, status.st_ino


def sort_out(top: Path, kinds: dict[Path, tuple[str, list[Path]]], notes: list[str]) -> list[Path]:
    """Return the cases among the folders that were found, and note the images that lie above them."""

    def above(folder: Path) -> list[Path]:
        return [p for p in folder.parents if p in kinds]

    cases = {p for p, (kind, _) in kinds.items() if kind == "case"}
    holds_cases = {q for p in cases for q in above(p)}
    for folder in sorted((p for p, (kind, _) in kinds.items() if kind == "above"), key=lambda p: -len(p.parts)):
        if folder not in holds_cases:
            cases.add(folder)
            holds_cases.update(above(folder))
            continue
        said = ", ".join(p.name for p in kinds[folder][1][:SHOWN])
        notes.append(
            f"left out, since folders of cases lie beside it: {said} in {folder}; name the file itself if wanted"
        )
    others = {p for p, (kind, _) in kinds.items() if kind == "other"} - holds_cases
    others -= {p for p in others if COPY.fullmatch(p.name) and holds_cases.intersection(above(p)[:1])}  # a case's masks
    holds_others = {q for p in others for q in above(p)}
    return sorted(cases | {p for p in others - holds_others if not cases.intersection(above(p))})


def find_cases(paths: PathLikeStr | Iterable[PathLikeStr], notes: list[str] | None = None) -> list[tuple[str, Path]]:
    """List the cases among `paths` as (id, path), in the order given and sorted within a folder.

    Args:
        paths: one path or several: folders of cases, case folders, NIfTI files.
        notes: is given a sentence on each image that is left out.

    Raises:
        ValueError: if two different cases have the same id, or files look like several modalities of one case.
    """
    found: dict[str, Path] = {}
    ids: dict[str, str] = {}  # by what a disk makes of them that knows no capitals
    for path in map(user_path, [paths] if isinstance(paths, str | PathLike) else paths):
        for case in expand_cases(path, notes) or [path]:
            case = case.absolute() if str(case).startswith("~") else case  # found in the folder `.`, not given
            name = case_id(case)
            id = ids.setdefault(name.casefold(), name)
            other = found.setdefault(id, case)
            if os.path.realpath(other) != os.path.realpath(case):  # the same case twice is no harm
                both = f"{display_name(other)} and {display_name(case)} are both called {id}"
                alike = " (not every disk tells capitals from small letters)" * (name != id)
                raise ValueError(f"{both}{alike}; rename one, or run them apart.")
    refuse_channels(found)
    return list(found.items())
