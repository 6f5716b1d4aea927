"""Subjects for the explorer: phantoms, files, and uploaded files."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mmccd.cases.names import split_name
from mmccd.errors import file_error
from mmccd.files import user_path
from mmccd.phantom import make_phantom
from mmccd.slices import SLICE_RANGE

if TYPE_CHECKING:
    from mmccd.cases.case import Case  # which needs nibabel; the networks of the explorer run without it


@dataclass(eq=False)
class Subject:
    """A case, and how to get it again.

    Attributes:
        case: Images, brain, and the lesion if that is known.
        twin: The same head without the lesion or fault, or None.
        call: Python expression that makes the subject again.
        kind: Kind of a phantom, else "".
        seed: Seed of a phantom, else 0.
        note: A sentence about how the files were read, with a space at its end, or "".
    """

    case: "Case"
    twin: "Case | None"
    call: str
    kind: str = ""
    seed: int = 0
    note: str = ""


def phantom_subject(kind: str = "glioma", seed: int = 404, index: int = 0, slices: range = SLICE_RANGE) -> Subject:
    """A phantom with its healthy twin.

    Args:
        kind: One of `phantom.KINDS`.
        seed: Seed of the data set.
        index: Number of the subject in it.
        slices: Axial slices on the BraTS grid.

    Raises:
        ValueError: If there is no such phantom.
    """
    from mmccd.cases.case import Case

    p = make_phantom(kind, seed, index, slices)
    more = "" if slices == SLICE_RANGE else f", {slices!r}"
    return Subject(
        Case.from_phantom(p),
        Case.from_phantom(p, twin=True) if p.twin else None,
        f"phantom_subject({kind!r}, {seed}, {index}{more})",
        kind,
        seed,
    )


def file_subject(path: str | Path, modality: str | None = None) -> Subject:
    """A case from files, with the healthy twin that `mmccd phantom` writes into its folder, if there is one.

    Args:
        path: Folder of one case, or a single NIfTI file.
        modality: Modality of a single file whose name does not say it.

    Raises:
        ValueError: If the files cannot be read, or the twin has another shape.
    """
    from mmccd.cases.case import Case

    path = user_path(path)
    modality_is_guessed = path.is_file() and not split_name(path)[1]
    case = Case.load(path, modality if modality_is_guessed else None)
    twin = Case.load(path / "healthy_twin") if (path / "healthy_twin").is_dir() else None
    if twin and twin.brain.shape != case.brain.shape:
        raise file_error(
            path / "healthy_twin",
            f"its shape {twin.brain.shape} is not the case's {case.brain.shape}",
            "rename that folder if it is no twin",
        )
    notes = "".join(f"{case.id}: {note}. " for note in case.notes)
    if not (modality_is_guessed and modality):
        return Subject(case, twin, f"file_subject({str(path)!r})", note=notes)
    note = notes or f"{path.name} is read as {modality.upper()}, since its name does not say. "
    return Subject(case, twin, f"file_subject({str(path)!r}, {modality!r})", note=note)


def upload_subject(files: Mapping[str, bytes], modality: str | None = None) -> Subject:
    """A case from the contents of uploaded files, checked like files on the disk.

    Args:
        files: Contents by file name: one NIfTI file, or all files of one case.
        modality: Modality of a single file whose name does not say it.

    Raises:
        ValueError: If nothing was uploaded or the files cannot be read.
    """
    if not files:
        raise ValueError("Nothing was uploaded: choose one NIfTI file, or the files of one case.")
    files = {Path(name).name: content for name, content in files.items()}
    name, single = next(iter(files)), len(files) == 1
    with TemporaryDirectory() as folder:
        try:
            for n, content in files.items():
                (Path(folder) / n).write_bytes(content)
            subject = file_subject(Path(folder) / name if single else folder, modality)
        except OSError as e:
            raise ValueError(f"Cannot read {name[:80]}: {e.strerror}; rename it.") from e
        except ValueError as e:
            # the temporary folder means nothing to the user
            raise ValueError(str(e).replace(f"{folder}/", "").replace(folder, "the upload")) from e
    subject.case.id = split_name(Path(name))[0] or "upload"
    arguments = f"{name!r}, {modality!r}" if single else "'FOLDER'"
    return replace(subject, call=f"file_subject({arguments})  # what was uploaded")
