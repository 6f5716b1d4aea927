"A release: the same sources give the same bytes, and what is missing is said."

import os
import shutil
import tarfile

import pytest
import release
import yaml
from check_wheel import ROOT


def sdist(folder, time, text="x"):
    "A little source distribution whose files were made at some time."
    source = folder / "source" / "p-1.0"
    source.mkdir(parents=True)
    for name in ("b.txt", "a.txt"):
        (source / name).write_text(text + name)
        os.utime(source / name, (time, time))
    path = folder / "p-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(source, "p-1.0")
    return path


def test_repacked_sources_depend_on_their_contents_alone(tmp_path):
    paths = [
        sdist(tmp_path / name, time, text) for name, time, text in (("x", 1e9, "1"), ("y", 1.1e9, "1"), ("z", 1e9, "2"))
    ]
    for path in paths:
        release.repack(path, 1_700_000_000)
    same, too, other = (p.read_bytes() for p in paths)
    assert same == too != other
    with tarfile.open(paths[0]) as tar:
        assert [m.name for m in tar.getmembers()] == ["p-1.0", "p-1.0/a.txt", "p-1.0/b.txt"]
        assert tar.extractfile("p-1.0/a.txt").read() == b"1a.txt"
        assert {m.mtime for m in tar.getmembers()} == {1_700_000_000}


def test_differences(tmp_path):
    for name, text in (("a", "1"), ("b", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(text)
    assert release.differences(tmp_path / "a", tmp_path / "a") == []
    assert release.differences(tmp_path / "a", tmp_path / "b") == ["f differs between two builds of the same sources"]
    (tmp_path / "b" / "f").unlink()
    assert release.differences(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("heading", "tag", "wrong"),
    [
        ("## [1.2.0] - 2026-11-29", "v1.2.0", []),
        ("## [1.2.0] - 2026-11-29", "", []),
        ("## [1.2.0] - unreleased", "v1.2.0", ["no dated section"]),
        ("## [1.2.0] - 2026-11-29", "1.2.0", ["the tag 1.2.0 is not v1.2.0"]),
    ],
)
def test_what_is_not_ready(heading, tag, wrong):
    found = list(release.not_ready("1.2.0", f"# Changelog\n\n{heading}\n", tag))
    assert len(found) == len(wrong)
    assert all(w in f for w, f in zip(wrong, found))


@pytest.fixture
def copy(tmp_path):
    "A copy of the files in which the version stands, with a changelog of two sections."
    for name in release.PLACES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text("## [7.8.8] - unreleased\n\nNew.\n\n## [0.1.0] - 2026-01-01\n\nOld.\n")
    return tmp_path


def test_a_version_is_written_wherever_it_stands(copy):
    before = {name: (copy / name).read_text(encoding="utf-8").splitlines() for name in release.PLACES}
    release.set_version("7.8.9", "2027-02-03", copy)
    for name, old in before.items():
        new = (copy / name).read_text(encoding="utf-8").splitlines()
        (changed,) = [b for a, b in zip(old, new) if a != b]
        assert changed.strip('"').endswith("7.8.9")
        assert len(new) == len(old)
    changelog = (copy / "CHANGELOG.md").read_text(encoding="utf-8")
    assert changelog == "## [7.8.9] - 2027-02-03\n\nNew.\n\n## [0.1.0] - 2026-01-01\n\nOld.\n"
    assert list(release.not_ready("7.8.9", changelog, "v7.8.9")) == []


@pytest.mark.parametrize(("version", "words"), [("7.8", "three numbers"), ("7.8.9", "one section")])
def test_a_wrong_version_changes_nothing(copy, version, words):
    (copy / "CHANGELOG.md").write_text("# Changelog\n")
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=words):
        release.set_version(version, "2027-02-03", copy)
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


def test_the_workflow_releases_what_the_tool_made():
    flow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    assert flow[True] == {"push": {"tags": ["v*"]}}  # YAML reads `on` as True
    build, publish = flow["jobs"]["build"], flow["jobs"]["publish"]
    assert any("tools/release.py dist --tag" in step.get("run", "") for step in build["steps"])
    assert publish["permissions"] == {"id-token": "write"}  # trusted publishing: no secret is kept
    assert publish["needs"] == "build"
