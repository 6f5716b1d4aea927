"What the page saves is written beside what is there, whole or not at all, and offered in the page."

import html
import os
import re
from base64 import b64decode

import pytest
from explorer_toys import busy, click, in_line, one_sentence, said
from toy_cases import tree

from mmccd.explorer import saving


def link_of(panel):
    found = re.search(
        r'<a download="([^"]*)" href="data:image/(png|gif);base64,([^"]*)">', panel.controls["message"].value
    )
    return html.unescape(found[1]), b64decode(found[3])


def test_saving_keeps_what_is_there(quick):
    e, v = quick.explorer, quick.shown
    for kind, n in (("png", 3), ("steps", 2), ("strips", 1)):
        for _ in range(n):
            click(quick, f"save_{kind}")
        assert said(quick).startswith("Saved")
        assert link_of(quick)[1] == (e.png(v) if kind == "png" else e.gif(v, kind))
        assert (quick.out / link_of(quick)[0]).read_bytes() == link_of(quick)[1]
    kept = tree(quick.out)
    assert len(kept) == 6
    assert sorted(p.rsplit(".")[-1] for p in kept) == ["gif"] * 3 + ["png"] * 3
    assert quick.shown == v
    in_line(quick)


@pytest.mark.parametrize("kind", ["png", "steps"])
@pytest.mark.parametrize(
    "trouble",
    [
        "a file",
        "below a file",
        pytest.param(
            "read-only",
            marks=pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions must bind"),
        ),
        "full",
    ],
)
def test_saving_where_nothing_can_be_saved(quick, tmp_path, trouble, kind, monkeypatch):
    out = tmp_path / "taken"
    if trouble == "read-only":
        out.mkdir(mode=0o500)
    elif trouble == "full":
        monkeypatch.setattr(
            saving, "write_atomic", lambda path, data: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
    else:
        out.write_text("mine")
    quick.out = out / "deep" if trouble == "below a file" else out
    before = tree(tmp_path)
    click(quick, f"save_{kind}")
    words = said(quick).replace(f"Download {link_of(quick)[0]}", "").strip()
    one_sentence(words, "Cannot write into", quick.out)
    assert "alert" in quick.controls["message"].value
    assert link_of(quick)[1] == (
        quick.explorer.png(quick.shown) if kind == "png" else quick.explorer.gif(quick.shown, kind)
    )
    assert tree(tmp_path) == before
    in_line(quick)


def test_a_picture_is_saved_even_if_a_control_is_moved(quick):
    e, v = quick.explorer, quick.shown
    messages, show = [], quick.show_message
    quick.show_message = lambda text, *rest: (messages.append(text), show(text, *rest))
    with busy(quick):
        quick.controls["save_png"].click()
        quick.controls["save_steps"].click()
        quick.controls["start"].value = 3
    assert [p.read_bytes() for p in quick.out.iterdir()] == [e.png(v)]
    assert quick.shown.start == 3
    assert any("dropped" in t for t in messages)
    in_line(quick)
