"""Damage in a store is named, whatever it hits: a bit, a file, a record; nothing is taken for zeros or left out."""

import json
import os
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_cases import tree, write_case

from mmccd.cases.prepare import prepare
from mmccd.cases.records import read_records, sealed, slice_checks
from mmccd.cases.shards import claimed_size
from mmccd.cases.store import SliceStore

OPTIONS = dict(size=8, fov=28.0, min_brain=1.0, progress=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A store of two small cases."
    folder = tmp_path_factory.mktemp("whole")
    for i in range(2):
        write_case(folder / "raw", f"c{i}", ("flair", "t2"), seed=i)
    prepare(folder / "raw", folder / "s", **OPTIONS)
    return folder


@pytest.fixture
def store(whole, tmp_path):
    return Path(shutil.copytree(whole / "s", tmp_path / "s"))


def read(place):
    data = SliceStore(place).dataset(tumour_free=False, in_memory=False)
    return data.rows, data.batch(range(len(data)))


def same(a, b):
    return a[0] == b[0] and list(a[1]) == list(b[1]) and all(torch.equal(a[1][k], b[1][k]) for k in a[1])


def refused(place):
    "The one sentence that a damaged store gets."
    with pytest.raises(ValueError) as error:
        read(place)
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith("."), text
    return text


def refused_packed(store, monkeypatch):
    "The same of its second case, before any slice of it is unpacked."
    unpacked = []
    with monkeypatch.context() as m:
        m.setattr("numcodecs.zstd.Zstd.decode", lambda self, packed, out: unpacked.append(packed))
        with pytest.raises(ValueError) as error:
            SliceStore(store).dataset("c1", tumour_free=False)
    assert not unpacked
    return str(error.value)


def files_of(store):
    return sorted(p for p in store.rglob("*") if p.is_file())


def change(path, f):
    "Change the JSON in a file."
    found = json.loads(path.read_text())
    f(found)
    path.write_text(json.dumps(found))


def test_every_bit_counts(store):
    "A single flipped bit anywhere is noticed, or changes nothing that is read."
    shutil.rmtree(store / "c0")
    wanted, rng, noticed = read(store), random.Random(18), 0
    for path in files_of(store):
        content = path.read_bytes()
        for _ in range(40):
            at, bit = rng.randrange(len(content)), 1 << rng.randrange(8)
            path.write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
            try:
                assert same(read(store), wanted), (path, at, bit)
            except ValueError:
                noticed += 1
        path.write_bytes(content)
    assert noticed > 100
    assert same(read(store), wanted)


@pytest.mark.parametrize("what", ["images", "masks"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "half", "zeros", "folder"])
def test_a_lost_file_is_named(store, what, damage):
    shard = store / "c1" / what / "c/0/0/0/0"
    content = shard.read_bytes()
    shard.unlink()
    if damage == "folder":
        shard.mkdir()
    elif damage != "missing":
        shard.write_bytes(
            {"empty": b"", "cut": content[:-1], "half": content[: len(content) // 2], "zeros": bytes(len(content))}[
                damage
            ]
        )
    assert "Cannot read c1" in refused(store)
    assert "prepare it again" in refused(store)
    assert SliceStore(store).dataset("c0", tumour_free=False).ids == ["c0"]  # the other is as good as ever


@pytest.mark.parametrize("content", [b"", b"[", b"[" * 100_000, b"\0" * 100, b"[1]", b"{}", b'{"a": 1'])
@pytest.mark.parametrize("where", ["zarr.json", "c1/zarr.json", "c1/images/zarr.json"])
def test_metadata_that_are_none(store, where, content):
    (store / where).write_bytes(content)
    assert "c1" in refused(store) or where == "zarr.json"


@pytest.mark.parametrize("gone", ["c1/zarr.json", "c1/images", "c1/masks/zarr.json"])
def test_what_is_gone_is_missed(store, gone):
    path = store / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "Cannot read c1" in refused(store)


def test_what_is_no_case_is_none_of_ours(store):
    (store / "notes").mkdir()
    (store / "notes/todo.txt").touch()
    assert SliceStore(store).ids == ["c0", "c1"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("size", v) for v in (0, -1, "8", None, 10**6, 1.5, True)],
        *[("modalities", v) for v in ([], None, "flair", [1], ["flair"], ["flair", "flair"], ["flair", "pd"])],
        *[("format", v) for v in (None, "2", 0, 3, 2.5, True)],
        ("slices", "x"),
        ("slices", [1]),
        *[("normalisation", v) for v in ("evil", 5, None, [])],
        *[("phantom", v) for v in (5, {}, "x")],
        ("min_brain", 1e400),
        ("healthy", 1),
    ],
)
@pytest.mark.parametrize("number", [1, 2])
def test_a_recipe_of_wrong_types(store, key, value, number):
    "Refused even where the checksum fits, and in old stores that have none."

    def f(found):
        recipe = found["attributes"]["recipe"] | {"format": number}
        recipe[key] = value
        found["attributes"] = {"recipe": recipe}
        if number == 2 and value != 1e400:
            found["attributes"] = sealed("recipe", recipe)

    change(store / "zarr.json", f)
    assert str(store) in refused(store)


ROWS = [[k, 2.0, 0.0] for k in range(10)]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        "abc",
        None,
        [[1]],
        [[1, 2.0]] * 10,
        [["x", 2.0, 0.0]] * 10,
        [[1, "x", 0.0]] * 10,
        [[1, 2.0, "no"]] * 10,
        [[1, -2.0, 0.0]] * 10,
        [[1, 2.0, 1e400]] * 10,
        [[-1, 2.0, 0.0]] * 10,
        [*ROWS, ROWS[0]],
        ROWS * 1000,
    ],
)
@pytest.mark.parametrize("number", [1, 2])
def test_rows_of_wrong_types(store, rows, number):
    if number == 1:
        make_old(store)

    def f(found):
        record = found["attributes"]["case"] | {"rows": rows}
        fits = number == 2 and "1e400" not in repr(rows) and "inf" not in repr(rows)
        found["attributes"] = sealed("case", record) if fits else {"case": record}

    change(store / "c1/zarr.json", f)
    if number == 1 and rows == []:
        assert {r.id for r in read(store)[0]} == {"c0"}  # as a case without a fitting slice
    else:
        assert "Cannot read c1" in refused(store)


@pytest.mark.parametrize("case", [5, None, [], "x", {}])
def test_a_record_that_is_none(store, case):
    change(store / "c1/zarr.json", lambda found: found["attributes"].update(case=case))
    assert "c1" in refused(store)


def evil_layouts():
    shard = ("chunk_grid", "configuration", "chunk_shape")
    yield from ((("shape",), s) for s in ([10**9, 2, 8, 8], [10, 2, 10**6, 10**6], [0, 2, 8, 8], [10], "x", None))
    yield from ((shard, s) for s in ([10**6, 10**4, 10**3, 10**3], [1, 2, 8, 8], None))
    yield from ((("data_type",), t) for t in ("string", "float64", "object", "bool", 5))
    names = ("numcodecs.pickle", "os.system", "gzip")
    yield from ((("codecs",), c) for c in ([], None, *([{"name": n, "configuration": {}}] for n in names)))
    yield (("codecs", 0, "configuration", "codecs"), [{"name": "bytes"}, {"name": "numcodecs.pickle"}])
    yield (("codecs", 0, "configuration", "chunk_shape"), [10, 2, 8, 8])
    yield (("codecs", 0, "configuration", "index_location"), "start")
    yield (("codecs", 0, "configuration", "codecs", 0, "configuration", "endian"), "big")
    yield (("chunk_key_encoding", "configuration", "separator"), ".")
    yield (("zarr_format",), 2)
    yield (("storage_transformers",), [{"name": "x"}])


@pytest.mark.parametrize(("where", "value"), list(evil_layouts()))
@pytest.mark.parametrize("number", [1, 2])
def test_arrays_of_another_layout(store, where, value, number, monkeypatch):
    "Refused before a byte is unpacked, by what the metadata say or by the code that they name."
    if number == 1:
        make_old(store)

    def f(found):
        for key in where[:-1]:
            found = found[key]
        found[where[-1]] = value

    change(store / "c1/images/zarr.json", f)
    assert "Cannot read c1 in the store" in refused_packed(store, monkeypatch)


def crc32c(data):
    "The checksum of a shard's index (Castagnoli's polynomial), for which zarr has used several packages."
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 * (crc & 1))
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize("what", ["more than it has to be", "more than it says", "of unknown size"])
def test_a_chunk_that_unpacks_to_much_more(store, what, monkeypatch):
    "Some bytes of zstd hold as many zeros as one likes; refused before they are unpacked."
    from numcodecs import Zstd

    frame = bytearray(Zstd().encode(bytes(10**6)))
    assert claimed_size(bytes(frame)) == 10**6
    if what == "more than it says":
        frame[6:10] = (2 * 8 * 8 * 2).to_bytes(4, "little")
    elif what == "of unknown size":
        frame[4] &= 0b111
    n = len(read_records(store)["c1"]["rows"])
    index = np.array([[0, len(frame)]] * n, "<u8").tobytes()
    shard = store / "c1/images/c/0/0/0/0"
    shard.write_bytes(bytes(frame) + index + crc32c(index).to_bytes(4, "little"))
    if what != "more than it says":  # zstd itself stops at the size that is said
        assert "Cannot read c1" in refused_packed(store, monkeypatch)


@pytest.mark.parametrize("size", [1, 255, 256, 300, 65791, 65792, 10**6])
def test_claimed_sizes(size):
    from numcodecs import Zstd

    frame = Zstd().encode(np.random.default_rng(0).bytes(size))
    assert claimed_size(frame + bytes(18)) == size
    assert claimed_size(frame[:10]) is None
    assert claimed_size(bytes(18)) is None


def test_zarr_of_format_2_is_not_read(store, monkeypatch):
    "Its metadata may name a filter that runs code."
    attributes = json.loads((store / "c1/zarr.json").read_text())["attributes"]
    shutil.rmtree(store / "c1")
    for name, dtype in (("images", "<f2"), ("masks", "|u1")):
        (store / "c1" / name).mkdir(parents=True)
        meta = dict(zarr_format=2, shape=[10, 2, 8, 8], chunks=[10, 2, 8, 8], dtype=dtype, fill_value=0, order="C")
        (store / "c1" / name / ".zarray").write_text(json.dumps(meta | {"filters": [{"id": "pickle"}]}))
        (store / "c1" / name / "0.0.0.0").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    (store / "c1/.zgroup").write_text('{"zarr_format": 2}')
    (store / "c1/.zattrs").write_text(json.dumps(attributes))
    assert "Cannot read c1" in refused_packed(store, monkeypatch)


def test_links(store):
    "A link to elsewhere is no way out of the store, and one to the store itself no case of its own."
    (store / "loop").symlink_to(".")
    assert "Cannot read loop" in refused(store)
    (store / "loop").unlink()
    shutil.rmtree(store / "c1/images")
    (store / "c1/images").symlink_to("/etc")
    assert "Cannot read c1" in refused(store)


def test_a_case_of_another_store_or_name(store, whole, tmp_path):
    prepare(whole / "raw", tmp_path / "other", normalisation="median_iqr", **OPTIONS)
    shutil.rmtree(store / "c1")
    shutil.copytree(tmp_path / "other/c1", store / "c1")
    assert "prepared in another way" in refused(store)
    shutil.rmtree(store / "c1")
    shutil.copytree(store / "c0", store / "c1")
    assert "what is there is c0" in refused(store)
    shutil.rmtree(store / "c1")
    shutil.copytree(whole / "s/c1", store / "c1")  # of a store with the same recipe
    read(store)


def make_old(store):
    "Make a store one of format 1, as version 0.1.0 wrote it."
    change(store / "zarr.json", lambda f: (f["attributes"].pop("sha256"), f["attributes"]["recipe"].update(format=1)))
    for id in ("c0", "c1"):

        def f(found):
            del found["attributes"]["sha256"]
            for key in ("id", "recipe", "checks"):
                del found["attributes"]["case"][key]

        change(store / id / "zarr.json", f)


def test_a_store_of_version_0_1(store, whole):
    "It is read, with a word that nothing can be checked; nothing is added to it."
    wanted = read(store)
    make_old(store)
    assert same(read(store), wanted)
    assert "without checksums" in SliceStore(store).notes[0]
    with pytest.raises(ValueError, match="earlier version of mmccd"):
        prepare(whole / "raw", store, **OPTIONS)


def test_unfinished_cases_are_named(store):
    change(store / "c1/zarr.json", lambda f: f.update(attributes={}))
    found = SliceStore(store)
    assert found.ids == ["c0"]
    assert "c1" in found.notes[0]
    assert "not finished" in found.notes[0]
    assert found.dataset(tumour_free=False).notes == found.notes


# ---- prepare mends, and knows what has changed
@pytest.mark.parametrize("lost", [False, True])
def test_prepare_mends_what_it_can(store, whole, lost):
    (store / "c0/zarr.json").write_bytes(b"")
    if lost:
        (store / "c1/masks/c/0/0/0/0").unlink()
    else:
        shard = bytearray((store / "c1/masks/c/0/0/0/0").read_bytes())
        shard[20] ^= 1
        (store / "c1/masks/c/0/0/0/0").write_bytes(shard)
    done = prepare(whole / "raw", store, **OPTIONS)
    assert (done["new"], done["kept"], done["failed"]) == (2, 0, [])
    assert [n.split(":")[0] for n in done["notes"]] == ["c0", "c1"]
    assert tree(store) == tree(whole / "s")


def test_prepare_names_damage_that_it_cannot_mend(store, whole):
    (store / "c1/zarr.json").write_bytes(b"")
    done = prepare(whole / "raw/c0", store, **OPTIONS)
    assert (done["kept"], done["new"], [f["id"] for f in done["failed"]]) == (1, 0, ["c1"])
    assert "its record is damaged" in done["failed"][0]["error"]


def test_a_corrected_file_is_prepared_again(store, whole, tmp_path):
    "Known by its content: the size says nothing."
    raw = Path(shutil.copytree(whole / "raw", tmp_path / "raw"))
    assert prepare(raw, store, **OPTIONS)["kept"] == 2  # the same files in another place
    shutil.rmtree(store)
    prepare(raw, store, **OPTIONS)
    before = tree(store / "c0")
    other = write_case(tmp_path / "other", "c1", ("flair", "t2"), seed=77)
    shutil.copy(other / "c1_t2.nii.gz", raw / "c1/c1_t2.nii.gz")
    done = prepare(raw, store, **OPTIONS)
    assert (done["new"], done["kept"], done["failed"]) == (1, 1, [])
    assert "c1: its files have changed" in done["notes"][0]
    assert prepare(raw, store, **OPTIONS)["notes"] == []
    assert tree(store / "c0") == before
    fresh = tmp_path / "fresh"
    prepare(raw, fresh, **OPTIONS)
    assert tree(fresh) == tree(store)
    done = prepare(other, store, **OPTIONS)  # another patient of that name
    assert (done["new"], done["kept"], done["failed"][0]["id"]) == (0, 0, "c1")
    assert "is in the store already" in done["failed"][0]["error"]


def test_a_killed_write_leaves_the_case_that_was_there(store, whole, tmp_path, monkeypatch):
    raw = Path(shutil.copytree(whole / "raw", tmp_path / "raw"))
    shutil.rmtree(store)
    prepare(raw, store, **OPTIONS)
    before = tree(store)
    shutil.copy(raw / "c0/c0_t2.nii.gz", raw / "c1/c1_t2.nii.gz")
    with monkeypatch.context() as m:
        m.setattr("mmccd.cases.prepare.slice_checks", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(raw, store, **OPTIONS)
    assert tree(store) == before


def test_a_signal_waits_until_a_case_is_written(whole, tmp_path, monkeypatch):
    "Threads of zarr would go on writing into what has been cleared up."
    real = slice_checks

    def signalled(*arrays):
        signal.raise_signal(signal.SIGINT)
        return real(*arrays)

    monkeypatch.setattr("mmccd.cases.prepare.slice_checks", signalled)
    with pytest.raises(KeyboardInterrupt):
        prepare(whole / "raw", tmp_path / "s", **OPTIONS, jobs=1)
    assert tree(tmp_path / "s/c0") == tree(whole / "s/c0")
    assert not list(tmp_path.rglob("*.part"))
    monkeypatch.undo()
    prepare(whole / "raw", tmp_path / "s", **OPTIONS, jobs=1)
    assert tree(tmp_path / "s") == tree(whole / "s")


def test_the_folder_of_a_user_stays(whole, tmp_path):
    "Nothing fits, so nothing is left in it, and it is still there."
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="No slice of 2 cases"):
        prepare(whole / "raw", tmp_path / "mine", **OPTIONS | dict(min_brain=1e5))
    assert tree(tmp_path / "mine") == {}
    assert (tmp_path / "mine").is_dir()


def test_leftovers_of_a_killed_run(whole, tmp_path):
    place = tmp_path / "s"
    (place / ".mmccd-abcd1234.part/c0").mkdir(parents=True)
    (place / "zarr.0123abcd.partial").touch()
    prepare(whole / "raw", place, **OPTIONS)
    assert tree(place) == tree(whole / "s")


def test_two_at_once_are_kept_apart(store, whole):
    from mmccd.files import folder_lock

    with folder_lock(store, "preparing a store"), pytest.raises(ValueError, match="Another process is preparing"):
        prepare(whole / "raw", store, **OPTIONS)


def test_names_that_mean_something_to_others(whole, tmp_path, monkeypatch):
    "A folder called ./~ or a::b is that folder."
    monkeypatch.chdir(tmp_path)
    for name in ("./~", "s", *(["a::b"] if hasattr(os, "fork") else [])):  # Windows takes no colon
        prepare(whole / "raw", name, **OPTIONS)
        assert SliceStore(name).ids == ["c0", "c1"]
        assert tree(tmp_path / name) == tree(whole / "s")


def test_checksums_are_of_the_content(store):
    "Whatever zarr packs it with."
    record = read_records(store)["c0"]
    assert len(record["checks"]) == len(record["rows"])
    assert all(len(c) == 16 for c in record["checks"])
    assert np.unique(record["checks"]).size == len(record["checks"])
