"""Who may be taken as healthy: nobody beside whose images a file lies that may show a lesion."""

from os import PathLike
from pathlib import Path

import numpy as np

from mmccd.cases.case import Case
from mmccd.cases.filenames import read_name
from mmccd.cases.grid import check_same_grid, volume_ml
from mmccd.cases.names import nifti_files, possible_lesions
from mmccd.cases.nifti import read_labels
from mmccd.errors import display_name

LARGEST_LESION = 0.5
"""Share of the brain above which a mask is one of the brain or its parts, not of a lesion."""
MOST_LABELS = 16
"""Labels of a map of lesions, at most; images have more different values."""


def check_no_lesion(case: Case, path: str | PathLike[str]) -> None:
    """Refuse to take a case without a segmentation as healthy if a file beside its images may show a lesion.

    A mask that is empty, or that covers most of the brain as brain masks and atlases do, shows none, on whatever grid
    it lies. A file whose name says nothing counts if it is a label map: whole numbers, few of them, in less than half
    of the brain.

    Args:
        case: as it was read.
        path: its folder or file.

    Raises:
        ValueError: names the case and the file.
    """
    if case.lesion is not None:
        return
    named = possible_lesions(path)
    for file in [*named, *unnamed_files(path)]:
        share, kinds = share_of_brain(file, case, anywhere=file in named)
        if kinds > 1 and share <= LARGEST_LESION and (file in named or kinds <= MOST_LABELS):
            raise ValueError(
                f"Cannot take {case.id} as healthy: {display_name(file)} may show a lesion; if it does, call it "
                f"{case.id}_seg.nii.gz, and if not, move it elsewhere."
            )


def share_of_brain(file: Path, case: Case, anywhere: bool = False) -> tuple[float, float]:
    """Return which share of the brain a label map marks, and how many different labels it has (0 counts as one).

    A file that is no label map, or lies on another grid, marks 0 with an infinite number of labels; with `anywhere`,
    one on another grid marks as many millilitres as it has.
    """
    try:
        labels, grid = read_labels(file)
        kinds = float(np.count_nonzero(np.bincount(labels.ravel(order="K"))))
    except ValueError:
        return 0.0, np.inf
    try:
        check_same_grid(grid, file, case.grid, case.id)
    except ValueError:
        share = volume_ml(labels > 0, grid.affine) / max(volume_ml(case.brain, case.affine), 1e-9)
        return (share, kinds) if anywhere else (0.0, np.inf)
    return float(np.count_nonzero(labels[case.brain]) / max(1, np.count_nonzero(case.brain))), kinds


def unnamed_files(path: str | PathLike[str]) -> list[Path]:
    """Return the files of a case whose names tell neither a plain image nor a mask; without the maps of `detect`."""
    path = Path(path)
    folder, start = (path, "") if path.is_dir() else (path.parent, read_name(path).before)
    names = {p: read_name(p) for p in nifti_files(folder) if p != path}
    mine = {p: n for p, n in names.items() if n.stem.startswith(start) and not n.stem.endswith("_anomaly")}
    return [p for p, n in mine.items() if not n.kind or n.doubt]
