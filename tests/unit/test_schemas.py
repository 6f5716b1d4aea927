"""Values from outside: of the right type, in range, finite; and one sentence that names the file and the field."""

import os
from dataclasses import dataclass
from typing import Annotated

import pytest
from typing_extensions import TypedDict

from mmccd.errors import display_name
from mmccd.schemas import MAX_BYTES, Ge, checked, closed, read_checked


@closed
class Inner(TypedDict):
    count: int


class Record(TypedDict):
    threshold: Annotated[float, Ge(0)]
    inner: Inner


@dataclass(frozen=True)
class Settings:
    sizes: tuple[int, ...] = (1,)
    inner: "Settings | str" = "tiny"

    def __post_init__(self):
        if max(self.sizes) > 5:
            raise ValueError(f"sizes must be at most 5, got {max(self.sizes)}")


GOOD = '{"threshold": 1, "inner": {"count": 2}, "later": [null]}'
BAD = {
    GOOD.replace("1,", "true,"): "threshold: should be a valid number, got true",
    GOOD.replace("1,", "NaN,"): "threshold: should be a finite number, got NaN",
    GOOD.replace("1,", "1e999,"): "threshold: should be a finite number",
    GOOD.replace("1,", "-1,"): "threshold: should be greater than or equal to 0, got -1",
    GOOD.replace("1,", "[0.5],"): "threshold: should be a valid number",
    GOOD.replace("1,", "9" * 5000 + ","): "threshold|damaged",
    GOOD.replace("2", "2.5"): "inner.count: should be a valid integer",
    GOOD.replace("count", "counts"): "the field inner.count is missing",
    GOOD.replace("2", '2, "more": 1'): "the field inner.more is unknown",
    GOOD.replace('"threshold"', '"\\u001b[2J"'): "the field threshold is missing",
    GOOD + ", 1": "damaged",
    "[" * 200_000: "damaged",
    '{"a":' * 100_000 + "1" + "}" * 100_000: "damaged",
    "": "damaged",
    "null": "should be an object, got null",
    "\0": "damaged",
}


def test_what_fits_is_returned_with_fields_that_nobody_asked_for(tmp_path):
    (tmp_path / "x.json").write_text("\ufeff" + GOOD)
    expected = {"threshold": 1.0, "inner": {"count": 2}, "later": [None]}
    assert read_checked(tmp_path / "x.json", Record) == expected == checked(expected, Record, "store")


@pytest.mark.parametrize(("text", "words"), BAD.items(), ids=range(len(BAD)))
def test_what_does_not_fit_gets_one_sentence(tmp_path, text, words):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        read_checked(tmp_path / "x.json", Record, "copy it again")
    said = str(error.value)
    assert said.startswith(f"Cannot read {tmp_path / 'x.json'}: ")
    assert said.endswith("; copy it again.")
    assert len(said) < 300
    assert said.isprintable()


def test_a_dataclass_takes_its_own_fields_only():
    assert checked({"sizes": [2, 3], "inner": {}}, Settings, "run") == Settings((2, 3), Settings())
    for value, words in (
        ({"inner": {"sizes": [1, "x"]}}, "inner.sizes.1: should be a valid integer"),
        ({"inner": {"sizes": [6]}}, "inner: sizes must be at most 5, got 6"),
        ({"size": 3}, "the field size is unknown"),
        ({"inner": 3}, "inner: should be an object, got 3"),
        ([], "should be an object"),
    ):
        with pytest.raises(ValueError, match=f"Cannot read run: .*{words}"):
            checked(value, Settings, "run")


def test_what_is_no_json_at_all_is_refused():
    deep = []
    for _ in range(300_000):  # as many take C's stack, by which Python 3.14 measures
        deep = [deep]
    for value, words in ((deep, "too deep"), ({1j: 2}, "no JSON"), ({"x": object()}, "no JSON")):
        with pytest.raises(ValueError, match=words):
            checked(value, Record, "run")


def test_what_is_no_readable_file_is_refused(tmp_path):
    (tmp_path / "huge.json").touch()
    with open(tmp_path / "huge.json", "r+b") as file:
        file.truncate(MAX_BYTES + 1)
    for path, words in (
        (tmp_path / "huge.json", "larger than 100 MB"),
        (tmp_path, "no file"),
        (tmp_path / "none.json", "no such file"),
        *([("/dev/zero", "no file")] if os.name == "posix" else []),
        ("a\0b", r"Cannot read a\\x00b: .*null"),
    ):
        with pytest.raises(ValueError, match=words):
            read_checked(path, Record)


def test_nothing_that_a_terminal_obeys_reaches_it():
    assert display_name("a\x1b[2J\r\n\x9b1m\u202e\u2028\x7f") == r"a\x1b[2J\r\n\x9b1m\u202e\u2028\x7f"
    assert display_name(b"caf\xe9".decode(errors="surrogateescape")) == r"caf\udce9"
    for good in ("患者01", "Zoé", "Zoe\u0301", "می\u200cخواهم", "100%_x", "a b"):
        assert display_name(good) == good
