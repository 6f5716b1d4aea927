"""Build source distribution and wheel twice, compare them byte for byte, and check what a release must hold.

`python tools/release.py OUT` leaves both files in OUT. Nothing is uploaded: .github/workflows/release.yml does that for
a tag.
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
from pathlib import Path

from check_wheel import ROOT, build

LARGEST = 30e6  # bytes of the wheel


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


def main(argv):
    "Build into a folder; exit code 1 where something is wrong. With --tag TAG, also whether the release is ready."
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
