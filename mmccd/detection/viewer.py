"""Results in NiiVue, a viewer for volumes that runs in a notebook (`pip install "mmccd[notebooks]"`)."""

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmccd.detection.records import CaseRecord
from mmccd.detection.report import record_name, result_files
from mmccd.errors import display_name, file_error
from mmccd.extras import require
from mmccd.files import user_path, write_atomic, writing
from mmccd.schemas import read_checked

if TYPE_CHECKING:
    from ipyniivue import NiiVue

NOTEBOOK = "viewer.ipynb"


def viewer_volumes(folder: PathLike[str] | str) -> list[dict[str, Any]]:
    """Return what a viewer loads of a case's results: its scans in grey, the first one shown, and the map over them.

    Args:
        folder: Of the case, as `mmccd detect` wrote it.

    Returns:
        Arguments of `ipyniivue.Volume` for each. The map is seen from its threshold on, and fully coloured from twice
        the threshold on.

    Raises:
        ValueError: The folder holds no result, or a scan has gone.
    """
    folder = user_path(folder)
    file = folder / record_name(folder.name)
    if not file.is_file():
        raise ValueError(f"{display_name(folder)} holds no result: name the folder of a case that mmccd detect wrote.")
    record: CaseRecord = read_checked(file, CaseRecord)
    scans = {m: Path(s["path"]) for m, s in record["inputs"].items() if m != "seg"}
    if gone := [p for p in scans.values() if not p.is_file()]:
        raise file_error(gone[0], "it is not there any more", "put it back, or detect again")
    shown = [
        {"path": p, "name": p.name, "colormap": "gray", "opacity": float(i == 0)} for i, p in enumerate(scans.values())
    ]
    case: dict[str, Any] = dict(record["case"])
    threshold = float(case.get("threshold") or 0.0)
    over = {"cal_min": threshold, "cal_max": 2 * threshold} if threshold > 0 else {}
    anomaly = folder / result_files(folder.name)["anomaly"]
    return [*shown, {"path": anomaly, "name": anomaly.name, "colormap": "warm", "opacity": 0.6, **over}]


def show_result(folder: PathLike[str] | str, height: int = 420) -> "NiiVue":
    """Return a viewer with the scans of a case and the map over them, in three planes; drag to move, scroll to page.

    Args:
        folder: Of the case, as `mmccd detect` wrote it.
        height: In pixels.

    Raises:
        ValueError: The folder holds no result, or ipyniivue is not installed.
    """
    volumes = viewer_volumes(folder)
    require("the viewer", "ipyniivue")
    from ipyniivue import NiiVue

    viewer = NiiVue(height=height, back_color=(0, 0, 0, 1), is_radiological_convention=True)  # as on our pages
    viewer.load_volumes(volumes)
    return viewer


def write_viewer(out: PathLike[str] | str, ids: Sequence[str]) -> Path:
    """Write a notebook that shows each case's result in a viewer, whole or not at all.

    Args:
        out: Folder of results.
        ids: Names of the cases.

    Returns:
        The notebook.
    """

    def cell(kind: str, name: str, text: str) -> dict[str, Any]:
        code = {"execution_count": None, "outputs": []} if kind == "code" else {}
        return {"cell_type": kind, "id": name, "metadata": {}, "source": text.splitlines(True), **code}

    cells = [
        cell("markdown", "intro", "# Results\n\nRun all cells. Drag to move, scroll to page; the map is seen from its "
             "threshold on. For research and teaching, not a medical device."),
        cell("code", "import", "from mmccd.detection.viewer import show_result"),
        *(cell("code", f"case-{i}", f"show_result({id!r})") for i, id in enumerate(ids)),
    ]  # fmt: skip
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    with writing(out):
        return write_atomic(Path(out) / NOTEBOOK, (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode())
