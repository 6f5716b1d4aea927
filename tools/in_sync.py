"""Do the modules, the README and the notebooks agree? `python tools/in_sync.py` says which file does not, and changes
nothing: it exports, cleans and renders a copy, and compares. `--write` does the same work in place."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
COPIED = ["settings.ini", "README.md", "mmccd/__init__.py", "nbs", "tools/readme.py"]


def regenerate(root):
    "Export the notebooks, clean them and render the README, inside `root`."
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}  # nbdev_export does nothing when it is set
    for command in ([BIN / "nbdev_export"], [BIN / "nbdev_clean"], [sys.executable, "tools/readme.py"]):
        if "readme" in str(command[-1]) and not (root / "nbs/index.ipynb").exists():
            continue
        done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=300)
        if done.returncode or "Failed to clean" in done.stderr:
            raise RuntimeError(
                f"{' '.join(Path(c).name for c in map(str, command))} failed:\n{done.stdout}{done.stderr}"
            )


def contents(root):
    "A dict from path to bytes of every file that is written from the notebooks, and of the notebooks."
    found = [
        *root.glob("nbs/*.ipynb"),
        *root.glob("nbs/images/index_*.png"),
        *root.glob("mmccd/*.py"),
        root / "README.md",
    ]
    return {str(p.relative_to(root)): p.read_bytes() for p in found if p.is_file()}


def differences(root):
    "Plain sentences, one for each file of `root` that regenerating would change."
    if not (root / "nbs/index.ipynb").exists():
        return ["nbs/index.ipynb is missing: README.md is written from it."]
    with tempfile.TemporaryDirectory() as tmp:
        copy = Path(tmp)
        for name in COPIED:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            if (root / name).is_dir():
                shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
            elif (root / name).exists():
                shutil.copy(root / name, copy / name)
        regenerate(copy)
        old, new = contents(root), contents(copy)

    def why(name):
        if name not in new:
            return "belongs to no notebook any more: delete it."
        if name.endswith(".ipynb"):
            return "is not clean."
        return "is missing." if name not in old else "does not match its notebook."

    return [f"{name} {why(name)}" for name in sorted(old | new) if old.get(name) != new.get(name)]


def main():
    if "--write" in sys.argv:
        regenerate(ROOT)
        return 0
    found = differences(ROOT)
    for line in found:
        print(f"out of sync: {line}")
    print("Run `python tools/in_sync.py --write`." if found else "in sync: modules, notebooks and README agree")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
