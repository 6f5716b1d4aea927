""""""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmccd.cases.case import Case
from mmccd.cases.grid import volume_ml
from mmccd.files import writing
from mmccd.postprocess import PostProcess
from mmccd.slices import to_slices


def representative_slices(
    amount: np.ndarray,  # how much there is to see on each axial slice, (z,) >= 0
    n: int = 6,  # how many slices are wanted
) -> list[int]:  # at most n axial indices, ascending
    "The slices with most to see, but no near neighbours."
    shown = np.flatnonzero(amount)
    gap = -(-len(shown) // (3 * n))  # rounded up
    chosen = []
    for k in shown[np.argsort(-amount[shown], kind="stable")].tolist():
        if len(chosen) < n and all(abs(k - j) >= gap for j in chosen):
            chosen.append(k)
    return sorted(chosen)


def report_figure(
    found,  # a `Detection`
    n: int = 6,  # slices
):  # matplotlib figure
    "Input, map and segmentation on the slices with most to see."
    from mmccd.viz import add_legend, compare, crop_to, show_rows

    case, h = found.case, found.threshold
    marked = found.segmentation if case.lesion is None else found.segmentation | case.lesion
    index = representative_slices(
        next(v.sum((0, 1)) for v in (found.anomaly * marked, marked, found.anomaly, case.brain) if v.any()), n
    )
    box = (..., *crop_to(to_slices(case.brain, index)))
    x, a, s = (to_slices(v, index)[box] for v in (case.normalised(found.input), found.anomaly, found.segmentation))
    truth = None if case.lesion is None else to_slices(case.lesion, index)[box]
    colours = [compare(x[i, 0], s[i, 0], None if truth is None else truth[i, 0]) for i in range(len(x))]
    top = 2 * h if h > 0 else 1.0  # never the case's own maximum
    fig = show_rows(
        [x, a, colours],
        [f"slice {k}" for k in index],
        [found.input, "anomaly map", "segmentation"],
        vmin=[-1, 0, 0],
        vmax=[1, top, 1],
        cmap=["gray", "inferno", "gray"],
        label=["normalised", "score", None],
        truths=[None, truth, None],
        sides=True,
        width=11,
        title=f"{found.case.id}: {found.detector} on {found.input}, "
        f"threshold {h:.3g}, {found.volume_ml:.1f} ml found\n{f'map after: {found.post}; ' if found.post else ''}for research and teaching, not a medical device",
    )
    spacing = np.linalg.norm(case.affine[:3, :2], axis=0)
    for ax in fig.axes[: 3 * len(index)]:
        ax.set_aspect(spacing[1] / spacing[0])
    return add_legend(fig, truth is not None)


def result_files(
    id: str,  # of a case
) -> dict:  # names of the files in its folder of results
    "What is written for a case."
    return {k: f"{id}_{k}{end}" for k, end in [("anomaly", ".nii.gz"), ("segmentation", ".nii.gz"), ("report", ".png")]}


@dataclass(eq=False)
class Detection:
    "What a detector found in one case, on the case's grid in LPS."

    case: Case  # what was looked at
    input: str  # modality the detector looked at
    detector: str  # its name
    threshold: float  # a map value above it is positive
    anomaly: np.ndarray  # (x, y, z) float32 >= 0, zero outside the brain
    segmentation: np.ndarray  # (x, y, z) bool: where the map is above the threshold
    post: PostProcess = PostProcess()  # what was done to both

    @property
    def volume_ml(self) -> float:
        return volume_ml(self.segmentation, self.case.affine)

    def report(self):
        return report_figure(self)

    def save(
        self,
        out,  # folder that exists; a folder named after the case is made in it
    ) -> dict:  # the files written, relative to `out`
        "Write map, segmentation and report; all of them, or none."
        from mmccd.viz import save_png

        id, folder, names = self.case.id, Path(out) / self.case.id, result_files(self.case.id)
        with writing(out), tempfile.TemporaryDirectory(prefix=".part-", dir=out) as beside:
            self.case.save(self.anomaly, Path(beside) / names["anomaly"])
            self.case.save(self.segmentation, Path(beside) / names["segmentation"])
            save_png(self.report(), Path(beside) / names["report"], dpi=100)
            folder.mkdir(exist_ok=True)
            for name in names.values():
                os.replace(Path(beside) / name, folder / name)
        return {k: f"{id}/{name}" for k, name in names.items()}
