"""Installs mmccd from this folder, without a network: python install.py [FOLDER OF THE ENVIRONMENT]

A copy of this file lies in each class pack, so it uses nothing but Python itself.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def wanted() -> str:
    """Return the version of Python that the wheels of this pack are for, such as 3.12."""
    return (HERE / "wheels" / "python.txt").read_text(encoding="utf-8").strip()


def main() -> int:
    """Make the environment, install into it, and say how to begin."""
    have = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not (HERE / "wheels" / "python.txt").is_file():
        print(f"There are no wheels in {HERE / 'wheels'}: ask for a class pack that was made with them.")
        return 2
    if have != wanted():
        print(f"The wheels of this pack are for Python {wanted()} and this is {have}: run it with Python {wanted()}.")
        return 2
    venv = Path(sys.argv[1] if len(sys.argv) > 1 else HERE / "environment").absolute()
    programs = venv / ("Scripts" if os.name == "nt" else "bin")
    steps = (
        [sys.executable, "-m", "venv", venv],
        [programs / "python", "-m", "pip", "--isolated", "install", "-q", "--disable-pip-version-check",
         "--no-index", "--find-links", HERE / "wheels", "mmccd[notebooks]"],
    )  # fmt: skip
    for what, step in zip(("Making an environment", "Installing, which takes some minutes"), steps):
        print(f"{what} in {venv} ...", flush=True)
        if code := subprocess.run([str(s) for s in step]).returncode:
            print(f"This did not work (exit code {code}); what is above says why.")
            return code
    lessons = HERE / "lessons"  # all of it is served: the lessons link to the chapters, beside their own folder
    begin = [programs / "jupyter-lab", f"--notebook-dir={lessons}", lessons / "nbs" / "course" / "01_see_it.ipynb"]
    line = (subprocess.list2cmdline if os.name == "nt" else shlex.join)([str(word) for word in begin])
    print(f"Done. To begin:\n  {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
