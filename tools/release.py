"""Build source distribution and wheel twice, compare them byte for byte, and check what a release must hold.

    python tools/release.py version 1.2.3    write a version, and today's date, wherever they stand
    python tools/release.py OUT              leave both files in OUT; with --tag v1.2.3, only if all is ready for it

Nothing is uploaded: .github/workflows/release.yml does that for a tag.
"""

import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from datetime import date
from pathlib import Path

from check_wheel import ROOT, build

LARGEST = 30e6  # bytes of the wheel
PLACES = {
    "mmccd/__init__.py": r'^__version__ = "(.+)"$',
    "settings.ini": r"^version = (.+)$",
    "CITATION.cff": r"^version: (.+)$",
}  # where the version stands
UNRELEASED = re.compile(r"^## \[(.+)\] - unreleased$", re.M)


def digests(folder):
    "SHA-256 of each file in a folder, by name."
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def fixed_time():
    "The time that goes into the archives: that of the last commit, or the first second that a zip file knows."
    done = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "315532800"


def repack(path, time):
    "Write a source distribution anew, so that it depends on its contents and nothing else."
    with tarfile.open(path) as old:
        members = [(m, old.extractfile(m).read() if m.isfile() else b"") for m in old.getmembers()]
    with (
        open(path, "wb") as raw,
        gzip.GzipFile("", "wb", mtime=time, fileobj=raw) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member, content in sorted(members, key=lambda pair: pair[0].name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = time, 0, 0, "", ""
            member.mode, member.pax_headers = 0o755 if member.isdir() else 0o644, {}
            new.addfile(member, io.BytesIO(content))


def differences(first, second):
    "Sentences: which files of two builds are not the same."
    a, b = digests(first), digests(second)
    return [f"{n} differs between two builds of the same sources" for n in sorted(a | b) if a.get(n) != b.get(n)]


def not_ready(version, changelog, tag=""):
    "Sentences: what of version, changelog and tag does not fit a release."
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.M):
        yield f"CHANGELOG.md has no dated section [{version}] - YYYY-MM-DD"
    if tag and tag != f"v{version}":
        yield f"the tag {tag} is not v{version}, the version of the package"


def set_version(version, day, root=ROOT):
    "Write the version into all its places, and the day over what is unreleased in the changelog."
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ValueError(f"a version is three numbers, such as 1.2.3, got {version!r}")
    files = {root / name: (root / name).read_text(encoding="utf-8") for name in (*PLACES, "CHANGELOG.md")}
    if len(UNRELEASED.findall(files[root / "CHANGELOG.md"])) != 1:
        raise ValueError("CHANGELOG.md must have one section that is unreleased: ## [1.2.3] - unreleased")
    for name, pattern in PLACES.items():
        found = re.search(pattern, files[root / name], re.M)
        files[root / name] = files[root / name][: found.start(1)] + version + files[root / name][found.end(1) :]
    files[root / "CHANGELOG.md"] = UNRELEASED.sub(f"## [{version}] - {day}", files[root / "CHANGELOG.md"])
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")


def main(argv):
    "Build into a folder; exit code 1 where something is wrong. With --tag TAG, also whether the release is ready."
    if argv[0] == "version":
        return set_version(argv[1], date.today().isoformat())
    out, tag = Path(argv[0]), argv[argv.index("--tag") + 1] if "--tag" in argv else ""
    os.environ["SOURCE_DATE_EPOCH"] = fixed_time()
    with tempfile.TemporaryDirectory() as tmp:
        made = []
        for name in ("once", "twice"):
            (Path(tmp) / name).mkdir()
            made.append(build(Path(tmp) / name).parent)
            repack(next(made[-1].glob("*.tar.gz")), int(os.environ["SOURCE_DATE_EPOCH"]))
        wrong = differences(*made)
        (wheel,) = made[0].glob("*.whl")
        if wheel.stat().st_size > LARGEST:
            wrong.append(f"the wheel has {wheel.stat().st_size / 1e6:.0f} MB, more than {LARGEST / 1e6:.0f}")
        for tool in (["twine", "check", "--strict", *made[0].iterdir()], ["check_wheel_contents", wheel]):
            done = subprocess.run([sys.executable, "-m", *map(str, tool)], capture_output=True, text=True)
            wrong += [f"{tool[0]} says: {done.stdout}{done.stderr}".strip()] * bool(done.returncode)
        if tag:
            import mmccd

            wrong += not_ready(mmccd.__version__, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), tag)
        if not wrong:
            out.mkdir(parents=True, exist_ok=True)
            for path in made[0].iterdir():
                shutil.copy(path, out)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    print(*(f"{digest}  {name}" for name, digest in (digests(out) if not wrong else {}).items()), sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
