"""Build the package, install the wheel in a clean environment and use it from another folder: first without extras,
which is enough to detect and to score, then with what phantoms need, for the demo."""

import os
import subprocess
import sys
import tempfile
import time
import zipfile
from configparser import ConfigParser
from itertools import chain
from pathlib import Path, PurePosixPath
from shutil import copy, copytree, ignore_patterns

from make_site import LINK, homepage, place

from mmccd.extras import PACKAGES

ROOT = Path(__file__).resolve().parent.parent
BROUGHT = {"fsspec", "markdown_it"}  # by torch and typer
NOT_NEEDED = ["nbdev", "fastcore", "execnb", "IPython", "pytest", *({*chain(*PACKAGES.values())} - BROUGHT)]
PROGRAMS = ["mmccd.__main__", "mmccd.cli.__main__"]
PROBE = f"""
import importlib, importlib.util, pkgutil, sys, mmccd
from pathlib import Path
assert Path(mmccd.__file__).is_relative_to(sys.prefix), f"mmccd comes from {{mmccd.__file__}}, not from the wheel"
names = [m.name for m in pkgutil.walk_packages(mmccd.__path__, "mmccd.") if m.name not in {PROGRAMS}]
for name in names:
    try: importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] not in {NOT_NEEDED}: raise
there = [n for n in {NOT_NEEDED} if n in sys.modules or importlib.util.find_spec(n)]
assert not there, f"a plain installation must not need {{', '.join(there)}}"
print(len(names), "modules import:", ", ".join(names))
"""


def weights(names):
    "Paths of the weights among `names`, from mmccd/ on."
    return {
        n
        for n in names
        if n.startswith("mmccd/weights/") and n.endswith((".json", ".safetensors", ".md", ".png", ".csv"))
    }


def on_the_index(text):
    "The README for an index of packages, which knows no relative links: they lead to the site, or to the repository."
    settings = ConfigParser()
    settings.read(ROOT / "settings.ini")
    site = settings["DEFAULT"]["doc_host"] + settings["DEFAULT"]["doc_baseurl"]

    def lead(m):
        page = place(m[2])
        if page:
            return f"{m[1]}{site}/{PurePosixPath(page).with_suffix('.html')}{m[3] or ''}"
        return f"{m[1]}{homepage()}/{'raw' if m[2].endswith('.png') else 'blob'}/main/{m[2]}{m[3] or ''}"

    return LINK.sub(lead, text)


def build(out):
    "The wheel, built from the source distribution, built from a copy (a build/ folder left behind would leak into it)."
    source = out / "source"
    source.mkdir()
    for name in ("pyproject.toml", "LICENSE"):
        copy(ROOT / name, source)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (source / "README.md").write_text(on_the_index(readme), encoding="utf-8")
    copytree(ROOT / "mmccd", source / "mmccd", ignore=ignore_patterns("__pycache__"))
    run([sys.executable, "-m", "build", "--outdir", out / "dist", source])
    return next((out / "dist").glob("*.whl"))


def run(command, cwd=None, limit=900, code=0):
    "Run `command` outside the checkout; what it printed, or the end of this script if it ends with another code."
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    start, words = time.monotonic(), " ".join([Path(command[0]).name, *map(str, command[1:])])
    words = words if len(words) < 90 and "\n" not in words else words.split("\n")[0][:60] + " ..."
    done = subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env=env | {"MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit,
    )
    if done.returncode != code:
        sys.exit(f"{done.stdout[-4000:]}\nwheel: exit code {done.returncode} from: {words}")
    print(f"wheel: {time.monotonic() - start:6.1f} s  {words}", flush=True)
    return done.stdout


def main():
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        wheel, elsewhere, venv = build(tmp), tmp / "elsewhere", tmp / "venv"
        inside = weights(zipfile.ZipFile(wheel).namelist())
        ours = weights(p.relative_to(ROOT).as_posix() for p in ROOT.glob("mmccd/weights/**/*") if p.is_file())
        if not ours:
            sys.exit("wheel: there are no weights in mmccd/weights/, and `mmccd detect` needs some.")
        if inside != ours:
            sys.exit(f"wheel: weights that are only here or only in the wheel: {', '.join(sorted(inside ^ ours))}")
        print(f"wheel: {wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB, {len(inside)} weight files inside")
        elsewhere.mkdir()
        run([sys.executable, "-m", "venv", venv])
        pip = [
            venv / "bin/python",
            "-m",
            "pip",
            "--disable-pip-version-check",
            "-q",
            "install",
            "-c",
            ROOT / "constraints.txt",
        ]
        run([*pip, wheel], elsewhere)
        size = sum(p.stat().st_size for p in venv.rglob("*") if p.is_file()) / 1e6
        print(f"wheel: a plain installation has {len(list(venv.rglob('*.dist-info')))} packages, {size:.0f} MB")
        said = run([venv / "bin/python", "-c", PROBE], elsewhere).strip().splitlines()[-1]
        if " modules import: " not in said:
            sys.exit(f"wheel: the modules were not imported; the last that was said is {said!r}")
        print("wheel:", said)
        if "demo" not in run([venv / "bin/mmccd", "--help"], elsewhere):
            sys.exit("wheel: `mmccd --help` does not name the demo")
        run([venv / "bin/mmccd", "detect", case := ROOT / "data/phantom1-glioma-s0-003", "--out", "found"], elsewhere)
        run([venv / "bin/mmccd", "evaluate", "found", case], elsewhere)
        said = run([venv / "bin/mmccd", "demo", "--out", "out"], elsewhere, code=2)
        if "needs nilearn" not in said or "pip install 'mmccd[train]'" not in said or (elsewhere / "out").exists():
            sys.exit(f"wheel: without extras the demo says {said!r}")
        run([*pip, f"{wheel}[train]"], elsewhere)
        run([venv / "bin/mmccd", "demo", "--out", "out"], elsewhere)
        for pattern in ("*_anomaly.nii.gz", "*_segmentation.nii.gz", "*.png", "*.json"):
            if not any((elsewhere / "out").rglob(pattern)):
                sys.exit(f"wheel: the demo wrote no {pattern}")
    print("wheel: builds, installs, imports, detects and scores without extras, and with [train] its demo runs")


if __name__ == "__main__":
    sys.exit(main())
