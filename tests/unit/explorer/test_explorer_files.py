"Files of one's own, by path and by upload; a bad file is one sentence, and the page goes on."

import html
import os
import re
import tempfile
import threading
from dataclasses import replace
from datetime import UTC, datetime

import nibabel as nib
import numpy as np
import pytest
import torch
from explorer_toys import WIDE, click, in_line, one_sentence, picture, put, refuses, said, slices_of
from toy_cases import AFFINE, volumes, write_case

from mmccd.explorer.explorer import Explorer
from mmccd.explorer.panel import Panel, explore
from mmccd.explorer.subjects import file_subject, upload_subject


def case_bytes(folder, modalities, id="Ann", **options):
    case = write_case(folder, id, modalities, affine=WIDE, **options)
    return {p.name: p.read_bytes() for p in sorted(case.iterdir())}


def nifti(array, affine=WIDE):
    return nib.Nifti1Image(np.asarray(array, np.float32), affine).to_bytes()


@pytest.fixture(scope="module")
def ann(tmp_path_factory):
    return case_bytes(tmp_path_factory.mktemp("ann"), ("flair", "t1"))


def upload(panel, files):
    panel.controls["upload"].value = tuple(
        {"name": n, "type": "", "size": len(b), "content": memoryview(b), "last_modified": datetime.now(UTC)}
        for n, b in files.items()
    )
    panel.worker.wait()


def no_place(text):
    assert tempfile.gettempdir() not in text
    assert not re.search(r"\btmp\w", text), text
    assert os.getcwd() not in text


def test_several_files_are_a_case(quick, toy, run, ann):
    upload(quick, ann)
    e = quick.explorer
    assert not said(quick)
    assert sorted(e.subject.case.volumes) == ["flair", "t1"]
    assert not quick.controls["upload"].value
    assert quick.controls["kind"].value == "from files"
    assert np.array_equal(e.subject.case.volumes["flair"], toy.case.volumes["flair"])
    assert e.scores(quick.shown) is not None
    in_line(quick)
    assert e.subject.case.id == "Ann"
    assert "Ann" in quick.controls["text"].value
    for text in (e.describe(quick.shown), e.lines(quick.shown).replace(str(e.weights), "")):
        no_place(text)
    click(quick, "save_png")
    assert "Ann" in said(quick)
    assert not re.search(r"\btmp\w", re.sub(r"/\S*/", "", said(quick)))


@pytest.mark.parametrize(
    ("name", "modality", "id"),
    [
        ("scan.nii.gz", "t1", "scan"),
        ("flair.nii.gz", "flair", None),
        ("Bob_t1.nii.gz", "t1", "Bob"),
        ("T1 nativ (2).nii.gz", "t1", None),
    ],
)
def test_one_file(quick, ann, name, modality, id):
    put(quick, input="t1")
    upload(quick, {name: ann["Ann_t1.nii.gz"]})
    e = quick.explorer
    assert not said(quick), said(quick)
    assert list(e.subject.case.volumes) == [modality]
    assert quick.shown.input == modality
    assert e.scores(quick.shown) is None
    assert id is None or e.subject.case.id == id
    for text in (e.describe(quick.shown), e.lines(quick.shown).replace(str(e.weights), "")):
        no_place(text)
    in_line(quick)
    text, last = html.unescape(quick.controls["text"].value), e.tiles(quick.shown)[-1]
    guess = f"{name} is read as T1, since its name does not say. "
    assert text.startswith(guess * (name == "scan.nii.gz") + f"{modality.upper()} of {e.subject.case.id}")
    assert ("is read as" in text) == (name == "scan.nii.gz")
    assert "not known" in quick.controls["scores"].value
    assert "not known" in text
    assert (last.title, last.note[1]) == ("found", "truth not known")
    upload(quick, {"Bob_flair.nii.gz": ann["Ann_flair.nii.gz"]})
    assert "is read as" not in quick.controls["text"].value
    assert quick.explorer.subject.note == ""


def test_a_nameless_file_at_a_path_says_so_too(quick, tmp_path, ann):
    if not hasattr(os, "fork"):
        pytest.skip("Windows takes no such name")
    path = tmp_path / "a<b>.nii.gz"
    path.write_bytes(ann["Ann_t1.nii.gz"])
    put(quick, input="t1")
    put(quick, path=str(path))
    click(quick, "open")
    assert not said(quick)
    assert quick.controls["text"].value.startswith(
        "a&lt;b&gt;.nii.gz is read as T1, since its name does not say. T1 of "
    )
    subject, here = quick.explorer.subject, {}
    exec(f"from mmccd.explorer import file_subject\nagain = {subject.call}", here)
    assert here["again"].note == subject.note
    assert list(here["again"].case.volumes) == ["t1"]
    assert explore(str(path), quick.explorer.weights, input="t1", steps=1).explorer.subject.note == subject.note


def nan():
    image = volumes()[0]
    image[12, 14, 5] = np.nan
    return image


SHIFTED = WIDE + np.array([[0, 0, 0, 9.0]] + [[0] * 4] * 3)


NOISE = np.random.default_rng(0).integers(1, 9, volumes()[0].shape)  # as in the air around a head
BAD = {
    "empty": (lambda a: {"Ann_flair.nii.gz": b""}, "Ann_flair.nii.gz", "empty"),
    "text": (lambda a: {"Ann_flair.nii": b"patient, date"}, "Ann_flair.nii", "not a NIfTI"),
    "truncated": (lambda a: {"Ann_flair.nii.gz": a["Ann_flair.nii.gz"][:2000]}, "Ann_flair.nii.gz", "cut off"),
    "four axes": (lambda a: {"Ann_flair.nii": nifti(np.stack([volumes()[0]] * 3, -1))}, "Ann_flair.nii", "4-D"),
    "nan": (lambda a: {"Ann_flair.nii": nifti(nan())}, "Ann_flair.nii", "NaN"),
    "zero": (lambda a: {"Ann_flair.nii": nifti(np.zeros((24, 28, 10)))}, "Ann_flair.nii", "every voxel is 0"),
    "two claims": (
        lambda a: {"Ann_flair.nii.gz": a["Ann_flair.nii.gz"], "Bob_flair.nii.gz": a["Ann_flair.nii.gz"]},
        "Ann_flair.nii.gz",
        "both claim to be flair",
    ),
    "other grids": (
        lambda a: {"Ann_flair.nii": nifti(volumes()[0]), "Ann_t1.nii": nifti(volumes()[0], SHIFTED)},
        "Ann_t1.nii",
        "affine",
    ),
    "other shapes": (
        lambda a: {"Ann_flair.nii": nifti(volumes()[0]), "Ann_t1.nii": nifti(volumes()[0][1:])},
        "Ann_t1.nii",
        "shape",
    ),
    "t1ce": (lambda a: {"Ann_t1ce.nii.gz": a["Ann_t1.nii.gz"]}, "Ann", "t1ce"),
    "t1ce and no name": (lambda a: {"t1ce.nii.gz": a["Ann_t1.nii.gz"]}, "t1ce", "flair"),
    "little brain": (lambda a: {"Ann_flair.nii": nifti(volumes()[0], AFFINE)}, "Ann", "square centimetres"),
    "little and no name": (
        lambda a: {"flair.nii": nifti(volumes()[0], AFFINE), "t1.nii": nifti(volumes()[0], AFFINE)},
        "Cannot show",
        "square centimetres",
    ),
    "segmentation": (lambda a: {"Ann_seg.nii.gz": a["Ann_seg.nii.gz"]}, "Ann_seg.nii.gz", "segmentation"),
    "no names": (lambda a: {"a.nii.gz": a["Ann_t1.nii.gz"], "b.nii.gz": a["Ann_t1.nii.gz"]}, "modality", "ID_flair"),
    "skull": (lambda a: {"Ann_flair.nii": nifti(volumes()[0] + NOISE)}, "background", "skull"),
    "flat": (lambda a: {"Ann_flair.nii": nifti(volumes()[0] > 0)}, "flair of Ann", "half of its brain"),
    "picture": (lambda a: {"Ann_flair.png": b"PNG"}, "Ann_flair.png", "NIfTI"),
    "long name": (lambda a: {"a" * 300 + ".nii.gz": a["Ann_t1.nii.gz"]}, "a" * 20, ""),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_upload_is_one_sentence(quick, ann, kind):
    make, *words = BAD[kind]
    before, seen, subject = picture(quick), quick.shown, quick.explorer.subject
    upload(quick, make(ann))
    one_sentence(said(quick), *words)
    no_place(said(quick))
    assert "alert" in quick.controls["message"].value
    assert not quick.controls["upload"].value
    assert picture(quick) == before
    assert quick.shown == seen
    assert quick.explorer.subject is subject
    assert quick.loader is quick.loaded
    in_line(quick)
    put(quick, start=2)
    assert not said(quick)
    assert quick.shown.start == 2
    assert picture(quick) != before
    in_line(quick)


def test_nothing_uploaded():
    with refuses("Nothing was uploaded"):
        upload_subject({})


def test_a_path_may_be_bad_and_the_next_good(quick, tmp_path, toy):
    seen, before = quick.shown, picture(quick)
    for path, words in (
        (str(tmp_path / "nowhere"), "Cannot read"),
        ("", "Type the path"),
        ("  ", "Type the path"),
        (str(tmp_path), "Cannot read"),
    ):
        put(quick, path=path)
        click(quick, "open")
        one_sentence(said(quick), words)
        assert "alert" in quick.controls["message"].value
        assert quick.shown == seen
        assert picture(quick) == before
        in_line(quick)
    case = write_case(tmp_path, "Eve", ("t1",), affine=WIDE)
    put(quick, path=f" {case} ")
    click(quick, "open")
    assert not said(quick)
    assert quick.explorer.subject.case.id == "Eve"
    assert quick.shown.input == "t1"
    in_line(quick)


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    write_case(tmp_path, "Eve", ("t1",), affine=WIDE)
    monkeypatch.setenv("HOME", str(tmp_path))
    s = file_subject("~/Eve")
    assert s.case.id == "Eve"
    assert str(tmp_path / "Eve") in s.call
    one = file_subject(f"~/Eve/{'Eve_t1.nii.gz'}", "flair")  # the name decides
    assert list(one.case.volumes) == ["t1"]
    assert eval(one.call, {"file_subject": file_subject}).case.id == "Eve"


def test_what_was_requested_with_a_bad_file_is_still_done(quick, tmp_path):
    "A control is moved while a file is read that turns out bad."
    begun, go = threading.Event(), threading.Event()

    def loader():
        begun.set()
        assert go.wait(60)
        raise ValueError("Cannot read it.")

    quick.request_subject(loader)
    assert begun.wait(60)
    quick.controls["start"].value = 3
    go.set()
    quick.worker.wait()
    assert quick.shown.start == 3
    assert quick.loader is quick.loaded
    in_line(quick)


def test_names_are_no_html(quick, ann):
    if not hasattr(os, "fork"):
        pytest.skip("Windows takes no such name")
    bad = '<img src=x onerror="alert(1)">'
    upload(quick, {f"{bad}_flair.nii.gz": ann["Ann_flair.nii.gz"]})
    click(quick, "show_lines")
    click(quick, "save_png")
    pages = [quick.controls[n].value for n in ("text", "message", "lines", "scores")]
    assert not any("<img" in p for p in pages)
    assert "&lt;img" in pages[0]
    assert "&lt;img" in pages[1]
    assert "&lt;img" in pages[2]
    upload(quick, {f"{bad}_t1.nii.gz": b"no"})
    assert "<img" not in quick.controls["message"].value
    assert "&lt;img" in quick.controls["message"].value


@pytest.fixture
def twins(tmp_path, toy):
    case = write_case(tmp_path, "Ann", ("flair", "t1"), affine=WIDE)
    write_case(tmp_path / "other", "t", ("flair", "t1"), lesion=False, affine=WIDE).rename(case / "healthy_twin")
    return case


def test_the_twin_beside_a_case_is_found(twins, run):
    e = Explorer(file_subject(twins), run)
    v = e.first_view(twin=True, steps=1)
    assert e.subject.twin.id == "Ann_healthy_twin"
    assert [t.title for t in e.tiles(v)][-1] == "healthy twin"
    _, brain, lesion = slices_of(e, v)
    a, b = e.slice("flair", v), e.slice("twin", v)
    far = brain[0] & ~torch.nn.functional.max_pool2d(lesion.float(), 5, 1, 2)[0].bool()
    assert (a - b)[lesion[0]].mean() > 1
    assert (a - b)[far].abs().max() < 1e-3
    p = Panel(e, v)
    assert not p.controls["twin"].disabled
    assert p.controls["twin"].value
    p.worker.stop()


def test_a_twin_of_another_shape_is_refused(twins):
    for f in (twins / "healthy_twin").iterdir():
        nib.save(nib.Nifti1Image(np.asarray(nib.load(f).dataobj)[2:], WIDE), f)
    with refuses("healthy_twin", "shape"):
        file_subject(twins)


def test_without_a_twin_there_is_nothing_to_tick(quick):
    assert quick.controls["twin"].disabled
    assert quick.explorer.slice("twin", quick.shown) is None
    e, view = quick.explorer, replace(quick.shown, twin=True)
    assert e.describe(view) == e.describe(quick.shown)
    assert e.png(view) == e.png(quick.shown)
