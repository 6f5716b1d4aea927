""""""

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from mmccd.cases.case import Case
from mmccd.cases.names import split_name
from mmccd.errors import file_error
from mmccd.phantom import make_phantom
from mmccd.slices import SLICE_RANGE


@dataclass(eq=False)
class Subject:
    "Whom one looks at."

    case: Case  # images, brain, and the lesion if that is known
    twin: Case | None  # the same head in health, or None
    call: str  # the Python expression that makes it again
    kind: str = ""  # of a phantom
    seed: int = 0  # of a phantom
    note: str = ""  # what one should know about it


def phantom_subject(
    kind="glioma",  # one of `phantom.KINDS`
    seed: int = 404,  # of the data set
    index: int = 0,  # of the subject
    slices=SLICE_RANGE,  # axial slices
) -> Subject:
    "A made-up subject."
    p = make_phantom(kind, seed, index, slices)
    more = "" if slices == SLICE_RANGE else f", {slices!r}"
    return Subject(
        Case.from_phantom(p),
        Case.from_phantom(p, twin=True) if p.twin else None,
        f"phantom_subject({kind!r}, {seed}, {index}{more})",
        kind,
        seed,
    )


def file_subject(
    path,  # folder of one case, or a single NIfTI file
    modality=None,  # what a single file shows; None: read from its name
) -> Subject:
    "A case from files, with its healthy twin where one lies in the folder, as `mmccd phantom` writes it."
    path = Path(path).expanduser()
    nameless = path.is_file() and not split_name(path)[1]
    case = Case.load(path, modality if nameless else None)
    twin = Case.load(path / "healthy_twin") if (path / "healthy_twin").is_dir() else None
    if twin and twin.brain.shape != case.brain.shape:
        raise file_error(
            path / "healthy_twin",
            f"its shape {twin.brain.shape} is not the case's {case.brain.shape}",
            "rename that folder if it is no twin",
        )
    note = f"{path.name} is read as {modality.upper()}, since its name does not say. " if nameless else ""
    return Subject(case, twin, f"file_subject({str(path)!r}{f', {modality!r}' * nameless})", note=note)


def upload_subject(
    files: dict,  # contents (bytes) by file name
    modality=None,  # what a single file shows, if its name does not say
) -> Subject:
    "A case from the contents of files, checked like any other."
    if not files:
        raise ValueError("Nothing was uploaded: choose one NIfTI file, or the files of one case.")
    files = {Path(name).name: content for name, content in files.items()}
    name, alone = next(iter(files)), len(files) == 1
    with TemporaryDirectory() as folder:
        try:
            for n, content in files.items():
                (Path(folder) / n).write_bytes(content)
            subject = file_subject(Path(folder) / name if alone else folder, modality)
        except OSError as e:
            raise ValueError(f"Cannot read {name[:80]}: {e.strerror}; rename it.") from e
        except ValueError as e:
            raise ValueError(str(e).replace(f"{folder}/", "").replace(folder, "the upload")) from e
    subject.case.id = split_name(Path(name))[0] or "upload"
    return replace(
        subject, call=f"file_subject({name if alone else 'FOLDER'!r}{f', {modality!r}' * alone})  # what was uploaded"
    )
