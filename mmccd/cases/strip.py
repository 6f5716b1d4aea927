"""The skull removed by a program that is made for it: HD-BET, or deepbet where there is a T1."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from mmccd.cases.grid import Grid, check_same_grid
from mmccd.cases.names import CaseFiles, find_cases, find_files
from mmccd.cases.nifti import read_labels, read_volume, write_nifti
from mmccd.cluster import open_workers
from mmccd.errors import display_name, file_error
from mmccd.files import hash_file, output_folder, remove_leftovers, swap_in, to_json, user_path, working_folder
from mmccd.progress import track

PREFERRED = ("t1", "t1ce", "flair", "t2")
"""Whose mask is used for all modalities that lie on the same grid."""
RECORD = "strip.json"
LEAST, MOST = 0.02, 0.98
"""Share of the voxels of an image that a brain can be."""


@dataclass(frozen=True)
class Stripper:
    """A program that finds the brain.

    Attributes:
        program: Its command.
        options: Its words; IN, OUT and MASK stand for files (.nii.gz).
        mask: Name of the file with the mask, in the folder of OUT.
        only: Modalities that it is made for; empty: all.
        install: How to get it.
    """

    program: str
    options: tuple[str, ...]
    mask: str
    only: tuple[str, ...]
    install: str

    def can(self, modality: str) -> bool:
        """Is it made for that modality?"""
        return not self.only or modality in self.only


STRIPPERS = (
    Stripper(
        "hd-bet",
        ("-i", "IN", "-o", "OUT", "-device", "cpu", "--disable_tta", "--save_bet_mask", "--no_bet_image"),
        "brain_bet.nii.gz",
        (),
        "pip install hd-bet (any modality, tumours too; fetches its weights once)",
    ),
    Stripper(
        "deepbet-cli",
        ("-i", "IN", "-o", "OUT", "-m", "MASK", "--no_gpu"),
        "mask.nii.gz",
        ("t1",),
        "pip install deepbet (T1 alone, healthy adults; brings its weights)",
    ),
)
"""The first that is installed and made for a modality of the case is used (Isensee et al. 2019; Fisch et al. 2024)."""


def program_path(program: str) -> str | None:
    """Where a program is: beside our Python, or on the PATH."""
    return shutil.which(program, path=str(Path(sys.executable).parent)) or shutil.which(program)


def choose_stripper(id: str, modalities: Sequence[str]) -> tuple[Stripper, str]:
    """A program that is installed, and the modality it shall look at.

    Args:
        id: Of the case, for the error.
        modalities: That the case has.

    Raises:
        ValueError: There is none; how to get one.
    """
    for stripper in STRIPPERS:
        can = [m for m in PREFERRED if m in modalities and stripper.can(m)]
        if can and program_path(stripper.program):
            return stripper, can[0]
    ways = " or ".join(s.install for s in STRIPPERS if any(s.can(m) for m in modalities))
    raise ValueError(f"Cannot strip {display_name(id)}: no program is installed that finds its brain; {ways}.")


def run_stripper(stripper: Stripper, path: PathLike[str] | str, folder: Path) -> np.ndarray:
    """The brain in an image, bool (x, y, z) in LPS.

    Args:
        stripper: Which.
        path: Image with skull.
        folder: To work in.

    Raises:
        ValueError: The program failed, or found no brain.
    """
    volume, grid = read_volume(path)
    image, out, mask = folder / "head.nii.gz", folder / "brain.nii.gz", folder / stripper.mask
    write_nifti(volume, grid, image)
    mask.unlink(missing_ok=True)  # of a modality on another grid
    names = {"IN": image.name, "OUT": out.name, "MASK": mask.name}
    words = [program_path(stripper.program) or stripper.program, *(names.get(w, w) for w in stripper.options)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, errors="replace")
    if done.returncode or not mask.is_file():
        last = [line for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip()][-1:] or ["no word"]
        said = shorten(last[0].strip(), 200, placeholder=" ...")
        raise ValueError(f"Cannot strip {display_name(path)}: {stripper.program} failed ({said}); try it alone.")
    brain, found = read_labels(mask)
    check_same_grid(found, mask, grid, path)
    if not LEAST < (share := float((brain > 0).mean())) < MOST:
        wrong = f"{stripper.program} took {share:.0%} of it for brain"
        raise ValueError(f"Cannot strip {display_name(path)}: {wrong}; look at the image.")
    return brain > 0


def describe_sources(files: CaseFiles) -> dict[str, str]:
    """Hash of each file of a case."""
    paths = [*files.images.values(), *([files.seg] if files.seg else [])]
    return {Path(p).name: hash_file(p) for p in paths}


def strip_files(id: str, files: CaseFiles, new: Path, part: Path) -> dict[str, Any]:
    """Write the images of a case without skull, named as in BraTS, and its segmentation as it is.

    Args:
        id: Of the case.
        files: Its files.
        new: Folder for them.
        part: Folder to work in.

    Returns:
        What is recorded: the files it was made of, the program, and the modalities it looked at.
    """
    known: list[tuple[Grid, np.ndarray]] = []
    grids = {m: read_volume(p)[1] for m, p in files.images.items()}
    record: dict[str, Any] = {"sources": describe_sources(files), "program": "", "looked_at": []}
    for modality in (m for m in PREFERRED if m in files.images):
        volume, grid = read_volume(files.images[modality])
        brain = next((b for g, b in known if same_grid(g, grid)), None)
        if brain is None:
            here = [m for m, other in grids.items() if same_grid(other, grid)]
            stripper, look = choose_stripper(id, here)
            brain = run_stripper(stripper, files.images[look], part)
            known.append((grid, brain))
            record["program"] = stripper.program
            record["looked_at"].append(look)
        write_nifti(np.where(brain, volume, 0), grid, new / f"{id}_{modality}.nii.gz")
    if files.seg:
        write_nifti(*read_labels(files.seg), new / f"{id}_seg.nii.gz")
    return record


def same_grid(a: Grid, b: Grid) -> bool:
    """Do two images lie on the same grid?"""
    try:
        check_same_grid(a, "a", b, "b")
    except ValueError:
        return False
    return True


def strip_case(id: str, path: PathLike[str] | str, out: Path, modality: str = "") -> bool:
    """Write one case without skull into a folder of its name; what is there, made of the same files, is kept.

    Args:
        id: Of the case.
        path: Its folder or file.
        out: Folder for it.
        modality: The only one that is wanted; "" for all that there are.

    Returns:
        Was it made now?

    Raises:
        ValueError: It cannot be read, the program failed, or the folder holds something else.
    """
    files, final = find_files(path, modality or None), out / id
    if final.exists():
        try:
            kept = json.loads((final / RECORD).read_text(encoding="utf-8"))["sources"]
        except (OSError, ValueError, KeyError, TypeError):
            kept = None
        if kept != describe_sources(files):
            raise file_error(final, "it was made of other files", "delete it, or choose another folder")
        return False
    with working_folder(out) as part:
        new = part / "new" / id
        new.mkdir(parents=True)
        record = strip_files(id, files, new, part)
        (new / RECORD).write_text(to_json(record) + "\n", encoding="utf-8")
        swap_in(new, final, part)
    return True


def stripped(
    cases: Sequence[tuple[str, PathLike[str] | str]], folder: Path, modality: str, scheduler: str = ""
) -> Generator[bool]:
    """Do `strip_case` with each case, here or on the workers of a scheduler, and yield what it returns."""
    if not scheduler:
        yield from (strip_case(id, path, folder, modality) for id, path in cases)
        return
    folder, paths = folder.absolute(), [os.path.abspath(path) for _, path in cases]
    tasks = [(id, strip_case, id, path, folder, modality) for (id, _), path in zip(cases, paths)]
    with open_workers(1, scheduler, paths=[folder, *paths]) as workers:
        yield from (done.result() for _, done in workers.results(tasks))


def strip_cases(
    paths: PathLike[str] | str | Sequence[PathLike[str] | str],
    out: PathLike[str] | str,
    modality: str = "",
    progress: bool = False,
    scheduler: str = "",
) -> list[Path]:
    """Write cases without skull, each into a folder of its name.

    Args:
        paths: Case folders, folders of cases, or NIfTI files.
        out: Folder for them, made where missing.
        modality: The only one that is wanted; "" for all that a case has.
        progress: Show a bar, if on a terminal.
        scheduler: Address or file of a Dask scheduler whose workers do it, each of which has the program and sees cases
            and folder under the same path.

    Returns:
        The folder of each.

    Raises:
        ValueError: A case cannot be stripped, in one sentence; those before it are kept.
    """
    cases = find_cases(paths)
    with output_folder(user_path(out)) as folder:
        remove_leftovers(folder)
        with closing(stripped(cases, folder, modality, scheduler)) as made:
            for _ in track(made, "strip", "case", total=len(cases), show=progress):
                pass
        return [folder / id for id, _ in cases]
