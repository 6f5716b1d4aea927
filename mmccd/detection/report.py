"""What a detector found in one case: a picture that explains it, and files on the grid of the scan."""

import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmccd.cases.case import Case
from mmccd.cases.grid import volume_ml
from mmccd.detection.page import case_page
from mmccd.files import swap_in, user_path, working_folder, writing
from mmccd.postprocess import PostProcess
from mmccd.slices import to_slices

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def representative_slices(amount: np.ndarray, n: int = 6) -> list[int]:
    """Return the axial slices with most to see, but no near neighbours, which would all show the same.

    Args:
        amount: how much there is to see on each slice, (z,), 0 or more.
        n: how many slices are wanted.

    Returns:
        At most `n` indices, ascending; slices with nothing to see are left out.
    """
    shown = np.flatnonzero(amount)
    gap = -(-len(shown) // (3 * n))  # rounded up
    chosen: list[int] = []
    for k in shown[np.argsort(-amount[shown], kind="stable")].tolist():
        if len(chosen) < n and all(abs(k - j) >= gap for j in chosen):
            chosen.append(k)
    return sorted(chosen)


def result_files(id: str) -> dict[str, str]:
    """Return the names of the files in a case's folder of results: its map, segmentation, report and page."""
    return {
        "anomaly": f"{id}_anomaly.nii.gz",
        "segmentation": f"{id}_segmentation.nii.gz",
        "report": f"{id}_report.png",
        "page": f"{id}_report.html",
    }


def record_name(id: str) -> str:
    """Return the name of the record in a case's folder of results; see `mmccd.detection.records`."""
    return f"{id}_detect.json"


@dataclass(eq=False)
class Detection:
    """What a detector found in one case, on the case's grid in LPS.

    Attributes:
        case: the case.
        input: modality that the detector was given; several are joined by +.
        detector: name of the detector's class.
        threshold: a voxel whose map is above it is positive.
        anomaly: the map (x, y, z), float32, 0 or more, 0 outside the brain.
        segmentation: where the map is above the threshold, bool (x, y, z).
        post: what was done to both.
        shares: of an ensemble: by modality, its share of the evidence where the segmentation is.
    """

    case: Case
    input: str
    detector: str
    threshold: float
    anomaly: np.ndarray
    segmentation: np.ndarray
    post: PostProcess = PostProcess()  # noqa: RUF009  frozen
    shares: dict[str, float] = field(default_factory=dict)

    @property
    def inputs(self) -> list[str]:
        """The modalities that the detector was given."""
        return self.input.split("+")

    @property
    def volume_ml(self) -> float:
        """How much tissue is positive, in millilitres."""
        return volume_ml(self.segmentation, self.case.affine)

    def report(self) -> "Figure":
        """Return the picture of the report."""
        return report_figure(self)

    def save(self, out: str | Path) -> dict[str, str]:
        """Write map, segmentation, report and page, all of them or none, and return their paths relative to `out`.

        Args:
            out: folder that exists; a folder named after the case is made in it, or takes the place of that which is
                there. Other files in it are kept, but a record of other maps is not.

        Raises:
            ValueError: if `out` cannot be written, or is full.
        """
        id, names, out = self.case.id, result_files(self.case.id), user_path(out)
        with writing(out), working_folder(out) as part:
            (part / "new" / id).mkdir(parents=True)
            self.write(part / "new" / id)
            swap_in(part / "new" / id, out / id, part, {*names.values(), record_name(id)})
        return {k: f"{id}/{name}" for k, name in names.items()}

    def write(self, folder: Path) -> None:
        """Write map, segmentation, report and page into a folder that exists."""
        from mmccd.viz import save_png

        names = result_files(self.case.id)
        self.case.save(self.anomaly, folder / names["anomaly"])
        self.case.save(self.segmentation, folder / names["segmentation"])
        save_png(self.report(), folder / names["report"], dpi=100)
        (folder / names["page"]).write_text(case_page(self), encoding="utf-8")


def report_slices(found: Detection, n: int) -> list[int]:
    """Return the slices of a report: those with most anomaly in what was found or missed, else most brain."""
    lesion = found.case.lesion
    marked = found.segmentation if lesion is None else found.segmentation | lesion
    volumes = (found.anomaly * marked, marked, found.anomaly, found.case.brain)
    return representative_slices(next(v.sum((0, 1)) for v in volumes if v.any()), n)


def report_title(found: Detection) -> str:
    """Return the lines above a report: two, and what a person should know of how the case was read."""
    post = f"map after: {found.post}; " if found.post else ""
    return (
        f"{found.case.id}: {found.detector} on {' and '.join(found.inputs)}, threshold {found.threshold:.3g}, "
        f"{found.volume_ml:.1f} ml found\n{post}for research and teaching, not a medical device"
        + "".join(f"\n{textwrap.fill(note, 84)}" for note in found.case.notes)
    )


def report_figure(found: Detection, n: int = 6) -> "Figure":
    """Return the picture of a case: input, map and segmentation on the slices with most to see.

    The scale of the map runs from 0 to twice the threshold, never to the case's own maximum, so that two patients can
    be laid side by side. Where the truth is known, colours say what was found, missed and marked wrongly.

    Args:
        found: what a detector found.
        n: how many slices to show, at most.
    """
    from mmccd.viz import add_legend, compare, crop_to, show_rows

    case, h = found.case, found.threshold
    index = report_slices(found, n)
    box = (..., *crop_to(to_slices(case.brain, index)))
    given = [to_slices(case.normalised(m), index)[box] for m in found.inputs]
    a, s = (to_slices(v, index)[box] for v in (found.anomaly, found.segmentation))
    truth = None if case.lesion is None else to_slices(case.lesion, index)[box]
    colours = [compare(given[0][i, 0], s[i, 0], None if truth is None else truth[i, 0]) for i in range(len(a))]
    scans = len(given)
    fig = show_rows(
        [*given, a, colours],
        [f"slice {k}" for k in index],
        [*found.inputs, "anomaly map", "segmentation"],
        vmin=[*[-1] * scans, 0, 0],
        vmax=[*[1] * scans, 2 * h if h > 0 else 1.0, 1],
        cmap=[*["gray"] * scans, "inferno", "gray"],
        label=[*["normalised"] * scans, "score", None],
        truths=[*[None] * scans, truth, None],
        sides=case.grid.oriented,
        width=11,
        title=report_title(found),
    )
    spacing = np.linalg.norm(case.affine[:3, :2], axis=0)
    for ax in fig.axes[: (scans + 2) * len(index)]:
        ax.set_aspect(spacing[1] / spacing[0])
    return add_legend(fig, truth is not None)
