"""The explorer as a page of its own: what is in it, and when it is not written."""

import io
import json
import re
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mmccd.detection.page import LEVEL
from mmccd.explorer import page
from mmccd.explorer.explorer import Explorer
from mmccd.explorer.page import explorer_data, explorer_page, write_page
from mmccd.explorer.render import crop


@pytest.fixture(scope="module")
def full(full_toy, run):
    return Explorer(full_toy, run)


def pictures(sheet, data):
    "The pictures of a sheet as arrays (n h w)."
    v = np.asarray(Image.open(io.BytesIO(b64decode(sheet["src"].split(",")[1]))))
    h, w, columns = data["height"], data["width"], sheet["columns"]
    v = v.reshape(v.shape[0] // h, h, columns, w).swapaxes(1, 2).reshape(-1, h, w)
    return v[: sheet["n"]]


def test_every_pair_with_every_strip_step_and_map(full):
    data = explorer_data(full, full.first_view(steps=2))
    view = full.first_view(steps=2)
    assert (data["pairs"][0]["input"], data["pairs"][0]["target"]) == (view.input.upper(), view.target.upper())
    assert len(data["pairs"]) == len(full.pairs) == 6
    for p in data["pairs"]:
        counts = {k: s["n"] for k, s in p["pictures"].items()}
        n, all_steps = p["strips"], p["strips"] * p["steps"]
        each = dict(x=1, twin=1, hidden=n, back=n, error=n, map=n, predicted=all_steps, noisy=all_steps)
        assert counts == each
        assert len(p["words"]) == n
        assert p["steps"] == 2
    assert set(data["masks"]) == {"brain", "truth"}


def test_the_pictures_are_those_of_the_explorer(full):
    view = full.first_view(steps=2, input="t2", target="t1", sampler="one by one")
    data = explorer_data(full, view)["pairs"][0]
    n = data["strips"]
    last = replace(view, swept=n, by_hand=False, threshold=data["threshold"])
    found = crop(full, full.map(last)) > data["threshold"]
    np.testing.assert_array_equal(pictures(data["pictures"]["map"], data)[-1] >= LEVEL, found)
    hidden = pictures(data["pictures"]["hidden"], data) > 127
    brain = crop(full, full.brain(view))
    assert (hidden.any(0) == brain).all()  # every pixel of the brain is hidden by some strip
    assert not pictures(data["pictures"]["error"], data)[~hidden].any()
    back = crop(full, full.trace(last, n).reconstruction)
    shown = pictures(data["pictures"]["back"], data)[-1] / 127.5 - 1
    np.testing.assert_allclose(shown[brain], back[brain].clip(-1, 1), atol=1 / 127)


def test_without_twin_truth_or_diffusion(toy, tmp_path):
    from explorer_toys import untrained

    from mmccd.masked_diffusion import MaskedUNet

    explorer = Explorer(toy, untrained(tmp_path / "masked", MaskedUNet))
    toy_without = replace(toy.case, lesion=None)
    explorer.set_subject(replace(toy, case=toy_without))
    data = explorer_data(explorer, explorer.first_view())
    assert set(data["masks"]) == {"brain"}
    assert all({"twin", "noisy"}.isdisjoint(p["pictures"]) for p in data["pairs"])
    assert {p["steps"] for p in data["pairs"]} == {1}


def test_the_page_needs_nothing_else(full, tmp_path):
    file = write_page(full, full.first_view(steps=1), tmp_path / "new" / "page.html")
    text = file.read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", text)
    assert json.loads(re.search(r"^const D = (.*);$", text, re.M)[1])["pairs"]
    assert len(text) < page.MOST_BYTES


def test_nothing_is_lost_and_nothing_half_written(full, tmp_path, monkeypatch):
    file = tmp_path / "page.html"
    file.write_text("mine")
    with pytest.raises(ValueError, match="is already there: choose another name, or give --overwrite"):
        write_page(full, full.first_view(steps=1), file)
    assert file.read_text() == "mine"
    monkeypatch.setattr(page, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"more than 8: ask for fewer steps \(--steps\)"):
        write_page(full, full.first_view(steps=1), tmp_path / "other.html")
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_names_cannot_break_the_page(full, full_toy):
    odd = replace(full_toy.case, id="</script><b>&")
    explorer = Explorer(replace(full_toy, case=odd), full.weights)
    text = explorer_page(explorer, explorer.first_view(steps=1))
    assert "</script><b>" not in text
    assert text.count("</script>") == 1


def test_the_command(full_toy, run, tmp_path, capsys):
    from mmccd.cli.app import main

    folder = re.search(r"'(.*)'", full_toy.call)[1]
    words = ["explore", folder, "--weights", str(run), "--steps", "1", "--html", str(tmp_path / "p.html")]
    assert main([*words, "--json", str(tmp_path / "said.json")]) == 0
    said = json.loads((tmp_path / "said.json").read_text())
    assert said["file"] == str(tmp_path / "p.html")
    assert said["megabytes"] == round((tmp_path / "p.html").stat().st_size / 1e6, 2)
    capsys.readouterr()
    assert main([*words, "--save", str(tmp_path / "s")]) == 2
    assert capsys.readouterr().err == "mmccd: --save writes pictures and --html a page: give one of them\n"
