"""What NIfTI headers claim: nonsense is refused in a sentence before memory is taken for it, small flaws are mended."""

import gzip
import io
import os
import random
import re
import struct
import sys
import warnings

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from toy_cases import AFFINE, volumes

from mmccd.cases import nifti
from mmccd.cases.case import Case
from mmccd.cases.header import MOST_MEMORY, NOT_ORIENTED
from mmccd.cases.nifti import read_labels, read_volume, write_nifti

IMAGE = volumes()[0]
PAIR = dict(data=np.int16, header=nib.Nifti1Header)


def raw(dtype="<i2", image=nib.Nifti1Image):
    "The bytes of a good file."
    header = image.header_class(endianness=dtype[0])
    header.set_data_dtype(dtype)
    return image(IMAGE.astype(dtype), AFFINE, header).to_bytes()


PLAIN, TWO = raw(), raw(image=nib.Nifti2Image)


def put(data, at, kind, *values):
    data = bytearray(data)
    struct.pack_into("<" + kind, data, at, *values)
    return bytes(data)


def dims(*values):
    return put(PLAIN, 40, f"{len(values)}h", *values)


def write(tmp_path, data, name="a_flair.nii.gz", packed=None):
    path = tmp_path / name
    packed = name.endswith(".gz") if packed is None else packed
    path.write_bytes(gzip.compress(data, 1) if packed else data)
    return path


def refusal(path):
    with pytest.raises(ValueError) as caught:
        read_volume(path)
    text = str(caught.value)
    assert re.fullmatch(rf"Cannot read {re.escape(str(path))}: [^\n]+; [^\n]+\.", text)
    return text


def mended(tmp_path, data):
    "The volume and the grid of a file, which must hold the good voxels."
    volume, grid = read_volume(write(tmp_path, data))
    good, _ = read_volume(write(tmp_path, PLAIN, "good_flair.nii"))
    assert_array_equal(volume, good)
    return grid


# ---- by content, not by name -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a_flair.nii", "a_flair.nii.gz"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("data", [PLAIN, TWO, raw(">i2"), raw("<f4"), raw(">f8"), raw("<u2")])
def test_a_file_is_what_it_holds(tmp_path, name, packed, data):
    assert_array_equal(Case.load(write(tmp_path, data, name, packed)).volumes["flair"], IMAGE)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"NRRD0004\ntype: short\n" * 40, "an NRRD image"),
        (b"\0\0\0\1" + bytes(400), "mri_convert"),
        (bytes(128) + b"DICM" + bytes(400), "dcm2niix"),
        (b"BZh91AY&SY" * 50, "bunzip2"),
        (b"PK\x03\x04" * 100, "a ZIP archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git lfs pull"),
        (gzip.compress(gzip.compress(PLAIN)), "it was compressed twice"),
        (put(PLAIN, 344, "4s", b"ni1\0"), "in a second file"),
        (put(PLAIN, 344, "4s", b"\0\0\0\0"), "an Analyze image"),
        (put(PLAIN, 344, "4s", b"n+9\0"), "an Analyze image"),
        (bytes(5000), "it is not a NIfTI image"),
        (PLAIN[:300], "its data is cut off"),
        (b"<html>404</html>", "it is not a NIfTI image"),
    ],
)
def test_other_files_hear_what_they_are(tmp_path, data, words):
    assert words in refusal(write(tmp_path, data, "a_flair.nii"))
    if not data.startswith(b"\x1f\x8b"):
        assert words in refusal(write(tmp_path, data, "a_flair.nii.gz"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a file that is none")
def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a_flair.nii")
    assert "it is no regular file" in refusal(tmp_path / "a_flair.nii")


# ---- sizes -------------------------------------------------------------------------------------------------------


def bomb(path, start, n):
    "A small gzip file that unpacks to `start` and so many zeros."
    block = gzip.compress(bytes(2**24))  # members may follow each other
    path.write_bytes(gzip.compress(start) + block * (n >> 24))
    return path


@pytest.mark.parametrize(
    ("start", "n", "words"),
    [
        (PLAIN, 2**32, "more data follow than its 24 x 28 x 10 voxels of int16 take"),
        (dims(3, 1200, 1200, 900), 2**22, "it claims 1200 x 1200 x 900 voxels, 7.24 GB in memory"),
        (dims(3, 700, 700, 700), 2**24, "its data is cut off"),
        (put(PLAIN, 108, "f", 1e6), 2**20, "its data is cut off"),
        (put(PLAIN, 108, "f", 2.0**62), 2**24, "the voxels begin at byte 4.61168602e+18"),
        (put(TWO, 168, "q", 2**63 - 1), 2**24, "the voxels begin at byte 9.22337204e+18"),
        (put(TWO, 16, "4q", 3, 2**62, 2**62, 2**62), 2**24, "its voxels fill"),
    ],
)
def test_claims_take_no_memory(tmp_path, start, n, words):
    path = bomb(tmp_path / "a_flair.nii.gz", start, n)
    if sys.platform != "linux":
        assert words in refusal(path)
    else:
        import resource

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert words in refusal(path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB
    refusal(write(tmp_path, start + bytes(2000), "b_flair.nii"))


def test_the_limit_is_on_what_reading_takes(tmp_path, monkeypatch):
    path = write(tmp_path, PLAIN)
    monkeypatch.setattr(nifti, "MOST_MEMORY", 6 * IMAGE.size)
    read_volume(path)
    monkeypatch.setattr(nifti, "MOST_MEMORY", 6 * IMAGE.size - 1)
    assert "crop or resample it" in refusal(path)
    assert 2**31 < MOST_MEMORY < 2**33


@pytest.mark.parametrize("name", ["a_flair.nii", "a_flair.nii.gz"])
def test_the_data_end_where_the_header_says(tmp_path, name):
    for good in (PLAIN, PLAIN + bytes(1), PLAIN + bytes(512)):  # filled up to a block
        read_volume(write(tmp_path, good, name))
    for long in (PLAIN + b"\1", PLAIN + bytes(513), PLAIN + bytes(10**6), dims(3, 24, 28, 9), dims(3, 24, 14, 10)):
        assert "more data follow" in refusal(write(tmp_path, long, name))
    for short in (PLAIN[:-1], PLAIN[:400], PLAIN[:352], dims(3, 24, 28, 11), put(PLAIN, 70, "hh", 16, 32)):
        assert "cut off" in refusal(write(tmp_path, short, name))


# ---- fields ------------------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
QFORM = put(PLAIN, 252, "hh", 1, 0)
EXTENDED = put(put(PLAIN, 348, "B", 1), 108, "f", 384)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        *((put(PLAIN, 108, "f", v), "the voxels begin at byte") for v in (0, 348, 351, 352.5, -352, 1e9, NAN, INF)),
        *((put(TWO, 168, "q", v), "the voxels begin at byte") for v in (0, 352, 543, -1)),
        *((put(PLAIN, 40, "h", n), "the image is") for n in (0, -1, 8, 256)),
        *((dims(3, 24, 28, v), "holds no voxel") for v in (0, -10)),
        (dims(4, 24, 28, 5, 2), "not one volume"),
        (dims(2, 24, 280), "save one slice as (x, y, 1)"),
        *((put(PLAIN, 70, "hh", 4, bits), "a voxel of type int16 takes") for bits in (0, 8, 32, -16)),
        *((put(PLAIN, 70, "h", code), "which is none") for code in (0, 1, 3, -1, 9999)),
        *((put(PLAIN, 70, "hh", code, 8), "not grey values") for code in (32, 128, 1792, 2304)),
        *((put(PLAIN, 112, "ff", a, b), "values are scaled by") for a, b in ((INF, 0), (1, NAN), (2, -INF))),
        *((put(PLAIN, 252, "hh", *codes), "the codes of qform and sform") for codes in ((-1, 0), (0, 99), (32767, 1))),
        (put(PLAIN, 280, "f", -30), "outside 0.05 to 20 mm; correct the voxel size or the unit"),
        (put(PLAIN, 280, "f", -0.01), "outside 0.05 to 20 mm"),
        (put(PLAIN, 123, "B", 1), "its voxels measure 1000 x 1000 x 2000 mm"),
        (put(PLAIN, 292, "f", 1e38), "m away from the origin"),
        (put(PLAIN, 280, "f", NAN), "the affine is singular"),
        (put(QFORM, 256, "3f", 2, 2, 2), "qform is no rotation"),
        (put(QFORM, 256, "3f", NAN, 0, 0), "where the voxels lie"),
        (put(QFORM, 80, "f", 0), "where the voxels lie"),
        *((EXTENDED[:352] + struct.pack("<i28x", n) + PLAIN[352:], "an extension of") for n in (7, -16, 48, 2**31 - 1)),
    ],
)
@pytest.mark.parametrize("name", ["a_flair.nii", "a_flair.nii.gz"])
def test_nonsense_is_refused(tmp_path, data, words, name, capfd, caplog):
    assert words in refusal(write(tmp_path, data, name))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_extensions_are_stepped_over(tmp_path):
    mended(tmp_path, EXTENDED[:352] + struct.pack("<ii24x", 32, 6) + PLAIN[352:])
    mended(tmp_path, EXTENDED[:352] + struct.pack("<ii8xii8x", 16, 6, 16, 6) + PLAIN[352:])
    mended(tmp_path, put(EXTENDED, 348, "B", 0)[:352] + bytes(range(32)) + PLAIN[352:])  # no extension, but a gap


@pytest.mark.parametrize(("slope", "inter"), [(0, 0), (NAN, NAN), (NAN, 5), (0, INF), (1, 0)])
def test_a_scale_that_is_not_set_changes_nothing(tmp_path, slope, inter):
    mended(tmp_path, put(PLAIN, 112, "ff", slope, inter))


def test_a_scale_is_applied(tmp_path):
    volume, _ = read_volume(write(tmp_path, put(PLAIN, 112, "ff", 0.5, -3)))
    assert_allclose(volume, IMAGE * 0.5 - 3)
    labels = put(raw("|u1"), 112, "ff", 2, 0)[:352] + bytes(IMAGE.size - 1) + b"\3"
    assert read_labels(write(tmp_path, labels))[0].max() == 6


# ---- where the voxels lie ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sform", [0, 1])
@pytest.mark.parametrize("longer", [2e-7, 5e-7, 1e-5, 4e-4])
def test_a_quaternion_longer_than_one_by_rounding(tmp_path, sform, longer):
    data = put(put(PLAIN, 252, "hh", 1, sform), 256, "3f", 0, 0, 1 + longer)
    grid = mended(tmp_path, data)
    assert_allclose(grid.affine[:3, :3], AFFINE[:3, :3], atol=1e-6)
    assert grid.notes == ()
    write_nifti(IMAGE, grid, tmp_path / "out.nii")  # others must be able to read what we write
    assert nib.load(tmp_path / "out.nii").header.get_qform()[2, 2] == 2


@pytest.mark.parametrize("qfac", [0, 5, NAN])
def test_the_sign_of_a_qform_that_is_neither_plus_nor_minus_one_is_plus(tmp_path, qfac):
    grid = mended(tmp_path, put(QFORM, 76, "f", qfac))
    assert_allclose(grid.affine[:3, :3], AFFINE[:3, :3], atol=1e-6)


def test_without_qform_and_sform_left_and_right_are_not_known(tmp_path):
    case = Case.load(write(tmp_path, put(PLAIN, 252, "hh", 0, 0)))
    assert not case.grid.oriented
    assert case.notes == [f"flair: {NOT_ORIENTED}"]
    case.save(IMAGE, tmp_path / "out_flair.nii")
    assert Case.load(tmp_path / "out_flair.nii").notes == case.notes
    assert mended(tmp_path, PLAIN).oriented


def test_two_voxel_sizes_in_one_header_are_noted(tmp_path):
    grid = mended(tmp_path, put(PLAIN, 80, "3f", 1, 1, 5))
    assert grid.notes == (
        "its header gives voxels of 1 x 1 x 2 mm in its affine, which counts, but of 1 x 1 x 5 mm in pixdim",
    )
    for nothing in (0, NAN, -1):
        assert mended(tmp_path, put(PLAIN, 80, "f", nothing)).notes == ()


@pytest.mark.parametrize("rest", [0, 1, 2.5])
def test_what_lies_behind_the_third_axis_is_kept(tmp_path, rest):
    grid = mended(tmp_path, put(PLAIN, 92, "4f", *[rest] * 4))
    write_nifti(IMAGE, grid, tmp_path / "out.nii.gz")
    assert_array_equal(nib.load(tmp_path / "out.nii.gz").header["pixdim"], [1, 1, 1, 2, *[rest] * 4])


@pytest.mark.parametrize(("unit", "factor"), [(1, 1e-3), (3, 1e3), (0, 1), (2, 1), (10, 1), (7, 1)])
def test_a_unit_other_than_millimetres_counts(tmp_path, unit, factor):
    image = nib.Nifti1Image(IMAGE.astype(np.int16), np.diag([factor, factor, factor, 1]) @ AFFINE)
    data = put(image.to_bytes(), 123, "B", unit)
    grid = mended(tmp_path, data)
    assert_allclose(grid.affine, AFFINE, atol=1e-4)
    write_nifti(IMAGE, grid, tmp_path / "out.nii.gz")
    assert_allclose(nib.load(tmp_path / "out.nii.gz").affine, image.affine)


# ---- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (1e300, "too large for float32; divide them by"),
        (1e36, "too large for float32"),
        (1e-45, "too small for float32; multiply them by"),
        (1e-300, "too small for float32"),
        (NAN, "NaN or infinite; set them to 0"),
    ],
)
def test_numbers_that_float32_cannot_hold(tmp_path, factor, words):
    path = tmp_path / "a_flair.nii"
    nib.save(nib.Nifti1Image(IMAGE.astype(np.float64) * factor, AFFINE), path)
    assert words in refusal(path)


@pytest.mark.parametrize("factor", [1e-20, 1, 1e30])
def test_numbers_that_float32_holds_give_the_same_case(tmp_path, factor):
    nib.save(nib.Nifti1Image(IMAGE.astype(np.float64) * factor, AFFINE), tmp_path / "a_flair.nii")
    case = Case.load(tmp_path / "a_flair.nii")
    good = Case.load(write(tmp_path, PLAIN))
    assert_allclose(case.normalised("flair"), good.normalised("flair"), atol=1e-5)


# ---- mutants -----------------------------------------------------------------------------------------------------


def mutants(n, seed=18):
    "Files with a few bits flipped, bytes cut out or put in, in the header, the voxels or the gzip stream."
    rng = random.Random(seed)
    for _ in range(n):
        data = bytearray(rng.choice([PLAIN, TWO, raw(">i2"), raw("<f4")]))
        packed = rng.random() < 0.5
        if packed and rng.random() < 0.5:
            data = bytearray(gzip.compress(data, 1))
            packed = False
        end = rng.choice([352, len(data)])
        for _ in range(rng.choice([1, 1, 2, 8])):
            at = rng.randrange(min(end, len(data)))
            kind = rng.random()
            if kind < 0.8:
                data[at] ^= 1 << rng.randrange(8)
            elif kind < 0.9:
                del data[at : at + rng.randrange(1, 300)]
            else:
                data[at:at] = rng.randbytes(rng.randrange(1, 300))
        yield gzip.compress(data, 1) if packed else bytes(data)


def test_mutants_are_read_or_refused_in_a_sentence(tmp_path, capfd, caplog):
    path, read, refused = tmp_path / "a_flair.nii.gz", 0, []
    for i, data in enumerate(mutants(600)):
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                case = Case.load(path)
            except ValueError as error:
                refused.append(str(error))
                continue
        read += 1
        v = case.volumes["flair"]
        assert np.isfinite(v).all(), i
        assert sorted(v.shape) == sorted(IMAGE.shape), i
        assert 0 < case.brain.sum() < v.size, i
    assert 50 < read < 550
    assert [text for text in refused if not re.fullmatch(r"Cannot [^\n]+ \S*a_flair\.nii\.gz: [^\n]+\.", text)] == []
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_a_stream_may_give_less_than_was_asked_for(tmp_path, monkeypatch):
    class Slow(io.BytesIO):
        def readinto(self, buffer):
            return super().readinto(buffer[:1000])

    monkeypatch.setattr(nifti.igzip, "IGzipFile", lambda **kw: Slow(PLAIN))
    assert_array_equal(read_volume(write(tmp_path, PLAIN))[0], IMAGE)
