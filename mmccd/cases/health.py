"""Who may be taken as healthy: nobody beside whose images a file lies that may show a lesion."""

from os import PathLike
from pathlib import Path

import numpy as np

from mmccd.cases.case import Case
from mmccd.cases.grid import check_same_grid
from mmccd.cases.names import possible_lesions
from mmccd.cases.nifti import read_labels
from mmccd.errors import display_name

LARGEST_LESION = 0.5
"""Share of the brain above which a mask is one of the brain or its parts, not of a lesion."""


def check_no_lesion(case: Case, path: str | PathLike[str]) -> None:
    """Refuse to take a case without a segmentation as healthy if a file beside its images may show a lesion.

    A mask that is empty, or that covers most of the brain as brain masks and atlases do, shows none.

    Args:
        case: as it was read.
        path: its folder or file.

    Raises:
        ValueError: names the case and the file.
    """
    for file in possible_lesions(path) if case.lesion is None else ():
        if not shows_no_lesion(file, case):
            raise ValueError(
                f"Cannot take {case.id} as healthy: {display_name(file)} may show a lesion; if it does, call it "
                f"{case.id}_seg.nii.gz, and if not, move it elsewhere."
            )


def shows_no_lesion(file: Path, case: Case) -> bool:
    """Return whether a mask or label map is empty in the brain, or covers most of it; False where it does not fit."""
    try:
        labels, grid = read_labels(file)
        check_same_grid(grid, file, case.grid, case.id)
    except ValueError:
        return False
    share = np.count_nonzero(labels[case.brain]) / max(1, np.count_nonzero(case.brain))
    return bool(share > LARGEST_LESION or not labels.any())
