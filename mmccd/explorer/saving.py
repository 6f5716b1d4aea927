""""""

import os
import tempfile
from pathlib import Path

SAVED = dict(picture="view.png", steps="steps.gif", strips="strips.gif", words="view.txt", lines="view.py")


def save_view(
    explorer,  # an `Explorer`
    view,  # what to look at
    out,  # folder; made where missing
    overwrite=False,  # replace what is there
) -> dict:  # names of the files, by what they are
    "All that the page can save; whole, or not at all."
    from tqdm import tqdm

    from mmccd.files import output_folder, writing

    there = [p for p in (Path(out) / name for name in SAVED.values()) if p.exists()]
    if there and not overwrite:
        raise ValueError(f"{there[0]} is already there: choose another folder, or give --overwrite")
    with output_folder(out) as folder, tqdm(desc="imagine", unit="evaluation", disable=None) as bar:
        explorer.before = lambda key: bar.update()
        made = dict(
            picture=explorer.png(view),
            steps=explorer.gif(view, "steps"),
            strips=explorer.gif(view, "strips"),
            words=f"{explorer.describe(view)}\n".encode(),
            lines=f"{explorer.lines(view)}\n".encode(),
        )
        with writing(out), tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as beside:
            for k, name in SAVED.items():
                (Path(beside) / name).write_bytes(made[k])
            for name in SAVED.values():
                os.replace(Path(beside) / name, folder / name)
    return dict(SAVED)
