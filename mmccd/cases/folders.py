"""Folders of one patient: which say who it is and which only what they hold, and where else the patient's files lie."""

import os
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from mmccd.cases.filenames import NIFTI
from mmccd.errors import display_name, file_error

PathLikeStr = str | PathLike[str]

_COPIES = (
    "bet brain derived dicom labels? masks? mni native old orig original pre pre[-_]?proc(?:essed)? prep processed qc "
    "raw reg registered seg segmentations?"
)
_COPY = rf"(?:{'|'.join(_COPIES.split())})(?:[-_ ]?(?:data|images?|files?|space))?"
PLAIN = re.compile(r"mri?|nifti|nii|niftis|structural", re.I)
"""Names of folders that say nothing of what is in them."""
WHAT = re.compile(rf"{_COPY}|anat\d+|t1w?|t2w?|t1ce|t1c|flair", re.I)
"""Names of folders that say what is in them, and not whose."""
COPY = re.compile(rf"anat|healthy_twin|te?mp|work|.*[-_]segmentations?|{_COPY}", re.I)
"""Folders in a patient's own, with other copies of the images, or with masks."""
SCAN = re.compile(r"[SI]\d+")  # ADNI and other data from LONI: a folder for a scan


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


def subfolders(folder: Path, links: bool = False) -> list[Path]:
    """Return the visible folders in a folder, or the links to folders, sorted by name; none of one that is locked."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.name[0] != "." and e.is_symlink() == links and e.is_dir()]
    except OSError:
        return []  # whoever lists its files says so
    return [folder / name for name in sorted(names)]


def homes(folder: Path) -> tuple[Path, Path]:
    """Return the full path of a case's folder, and that of its patient: the one above, if the first says only what."""
    here = Path(os.path.abspath(folder))
    return here, here.parent if here.name == "anat" or WHAT.fullmatch(here.name) or PLAIN.fullmatch(here.name) else here


def files_above(folder: Path) -> list[Path]:
    """Return the NIfTI files in the patient's folder above one that says only what is in it; of any other none."""
    here, home = homes(folder)
    return readable_files(home) if home != here else []


def related_files(folder: Path) -> list[Path]:
    """Return the NIfTI files in other folders of the same patient: those for masks and copies below the case's own.

    Where the case's folder is such a folder itself, the patient's is the one above: its files, and all such folders in
    it. The healthy twin of a phantom stands alone.
    """
    here, home = homes(folder)
    places = [p for p in subfolders(home) if p != here]
    return files_above(here) + [
        f
        for p in places
        if COPY.fullmatch(p.name) and p.name not in ("anat", "healthy_twin")
        for f in readable_files(p)
    ]


def readable_files(folder: Path) -> list[Path]:
    """Return the NIfTI files in a folder; none of one that cannot be opened."""
    try:
        return nifti_files(folder)
    except ValueError:
        return []


def derived_files(folder: Path) -> list[Path]:
    """Return the NIfTI files of a BIDS subject's folder that lie below derivatives, at most as deep as the folder.

    `derivatives` lies beside the subjects, beside the folder `rawdata` with them, or around the pipeline with them.
    """
    folder = Path(os.path.abspath(folder))
    root = next((p.parent for p in (folder, *folder.parents) if p.name.startswith("sub-")), None)
    if root is None:
        return []
    homes = [root / "derivatives", root.parent / "derivatives", *([root.parent] * (root.parent.name == "derivatives"))]
    levels = [folder.relative_to(root), *folder.relative_to(root).parents][:-1]
    places = [p / level for home in homes for p in (home, *subfolders(home)) for level in levels]
    return [f for p in places if p != folder and p.is_dir() for f in readable_files(p)]


def refuse_channels(cases: Mapping[str, Path]) -> None:
    """Refuse the channels of cases, as nnU-Net numbers them, where each file would be taken for a case of its own.

    Args:
        cases: path by id.

    Raises:
        ValueError: if two or more names each come with the endings _0000 and _0001.
    """
    numbers: dict[str, set[str]] = {}
    for id, path in cases.items():
        if (found := re.fullmatch(r"(.+)_(\d{4})", id)) and path.is_file():
            numbers.setdefault(found[1], set()).add(found[2])
    several = [stem for stem, found in numbers.items() if {"0000", "0001"} <= found]
    if len(several) > 1:
        both = f"{display_name(several[0])}_0000 and {display_name(several[0])}_0001"
        raise ValueError(
            f"{both} look like two modalities of one case, as nnU-Net numbers them, not like two cases; "
            "name the files of one modality only, such as *_0000.nii.gz."
        )
