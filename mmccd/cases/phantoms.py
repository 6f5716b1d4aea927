""""""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmccd.phantom import KINDS, Phantom, phantom_id


def make_subjects(
    out,  # folder; made where missing
    wanted,  # list of (kind, index)
    seed: int = 0,  # of the data set
    slices=None,  # range of axial slices; None: all 155
    overwrite=False,  # replace subjects that are there
    progress=True,  # a bar, if on a terminal
) -> list[dict]:  # id, kind and folder of each
    "Write phantom subjects in BraTS layout, each of them whole or not at all."
    from tqdm import tqdm

    from mmccd.cases.phantoms import write_phantom
    from mmccd.files import output_folder, writing
    from mmccd.phantom import make_phantom, phantom_id

    there = [p for p in (Path(out) / phantom_id(k, seed, i) for k, i in wanted) if p.exists()]
    if there and not overwrite:
        raise ValueError(f"{there[0]} is already there: choose another folder, or give --overwrite")
    made = []
    with output_folder(out) as out:
        for kind, i in tqdm(wanted, "phantom", unit="subject", disable=None if progress else True):
            subject = make_phantom(kind, seed, i, slices)
            if not subject.brain.any():
                raise ValueError(f"the slices {slices[0]}:{slices[-1]} hold no brain: choose others, such as 70:89")
            with writing(out):
                made.append({"id": subject.id, "kind": kind, "folder": str(write_phantom(subject, out, overwrite))})
    return made


def save_nifti(
    volume: np.ndarray,  # (x, y, z), integers
    path,  # file to write, .nii.gz
    affine: np.ndarray,  # (4, 4), voxel -> mm
    dtype=np.int16,  # on disk
):
    "Write a volume as compressed NIfTI in millimetres; the same volume gives the same bytes."
    import nibabel as nib

    image = nib.Nifti1Image(volume.astype(dtype), affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def write_case(
    folder,  # to write into, made if missing
    name: str,  # of the case, the files' prefix
    volumes: dict,  # modality -> (x, y, z)
    labels: np.ndarray,  # uint8 (x, y, z)
    affine: np.ndarray,  # (4, 4)
):
    "Write one case as <name>_<modality>.nii.gz and <name>_seg.nii.gz."
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for m, v in volumes.items():
        save_nifti(v, folder / f"{name}_{m}.nii.gz", affine)
    save_nifti(labels, folder / f"{name}_seg.nii.gz", affine, np.uint8)


def swap_in(
    new: Path,  # folder that is complete
    final: Path,  # where it belongs; may be taken
    old: Path,  # where to put what is there
):
    "Put a folder in its place; files of the user's in the old one that the new one lacks are kept."
    if not final.exists():
        return new.rename(final)
    for f in [f for f in final.rglob("*") if f.is_file() and not (new / f.relative_to(final)).exists()]:
        (new / f.relative_to(final)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(f, new / f.relative_to(final))
    final.rename(old)
    try:
        new.rename(final)
    except OSError:
        old.rename(final)
        raise


def write_phantom(
    phantom: Phantom,  # what to write
    out,  # folder that gets a folder <id>
    overwrite: bool = False,  # replace the files of a case that is there; other files in its folder stay
) -> Path:  # the case's folder: <id>_{flair,t1,t1ce,t2,seg}.nii.gz and healthy_twin/ with the same names
    "Write a phantom in BraTS layout; it appears under its name only when it is complete."
    final = Path(out) / phantom.id
    if final.exists() and not overwrite:
        raise ValueError(f"{final} exists already; choose another folder or overwrite it")
    Path(out).mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{phantom.id}-", dir=out))
    try:
        write_case(part / "case", phantom.id, phantom.volumes, phantom.labels, phantom.affine)
        if phantom.twin:
            write_case(part / "case" / "healthy_twin", phantom.id, phantom.twin, 0 * phantom.labels, phantom.affine)
        swap_in(part / "case", final, part / "old")
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return final


@dataclass(frozen=True)
class Phantoms:
    "Phantom subjects to prepare, in place of a folder of cases."

    healthy: int = 0  # healthy subjects
    glioma: int = 0  # patients with a glioma
    ms: int = 0  # patients with multiple sclerosis
    infarct: int = 0  # patients with an infarct
    artefact: int = 0  # healthy subjects with an artefact of the scanner
    seed: int = 0  # of all randomness
    whole: bool = False  # make whole heads, not the wanted slices alone

    def tasks(self):
        "Name and origin of each subject."
        if not any(getattr(self, kind) for kind in KINDS):
            raise ValueError(
                "There is nothing to prepare: ask for at least one phantom, such as healthy=1 (--healthy 1)."
            )
        return [
            (phantom_id(kind, self.seed, i), {"kind": kind, "index": i})
            for kind in KINDS
            for i in range(getattr(self, kind))
        ]
