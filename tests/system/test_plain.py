from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from yolo26_executorch.system.plain import decode, from_plain, to_plain


@dataclass(frozen=True)
class Part:
    shape: tuple[int, ...]
    share: float = 0.5


@dataclass(frozen=True)
class Whole:
    name: str
    folder: Path | None
    parts: tuple[Part, ...] = ()
    names: dict[int, str] | None = None
    rest: dict[str, Any] | None = None


WHOLE = Whole("x", Path("a/b"), (Part((1, 2)), Part((), 1)), {0: "a", 10: "b"}, {"x": [1, {"y": None}]})


def test_what_is_written_is_read_back() -> None:
    plain = to_plain(WHOLE)
    text = json.dumps(plain)
    assert plain["folder"] == "a/b"
    assert from_plain(json.loads(text), Whole) == decode(text.encode(), Whole) == WHOLE


def test_fields_that_are_not_known_are_passed_over_and_defaults_filled_in() -> None:
    assert from_plain({"name": "x", "folder": None, "colour": "red"}, Whole) == Whole("x", None)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"name": 3}, "name: expected str, given int"),
        ({"name": True}, "name: expected str, given bool"),
        ({"parts": [{"shape": [1, "2"]}]}, r"parts[0].shape[1]: expected int, given str"),
        ({"parts": [{"shape": [1.0]}]}, "parts[0].shape[0]: expected int, given float"),
        ({"parts": [{"shape": [], "share": "1"}]}, "parts[0].share: expected float, given str"),
        ({"parts": [{}]}, "parts[0].shape: missing"),
        ({"parts": 1}, "parts: expected array, given int"),
        ({"names": {"a": "b"}}, "keys of names: expected int, given str"),
        ({"folder": 1}, "folder"),
        ({"rest": []}, "rest: expected object | null, given array"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], said: str) -> None:
    plain = {**to_plain(WHOLE), **change}
    for read in (lambda: from_plain(plain, Whole), lambda: decode(json.dumps(plain).encode(), Whole)):
        with pytest.raises(ValueError) as caught:
            read()
        assert said in str(caught.value)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[" * 100_000, b'{"name": NaN}', b"\xff\xfe", b'{"name": "\\ud800"}', b"nul"]
)
def test_text_that_is_no_json_is_refused_in_one_line(text: bytes) -> None:
    with pytest.raises(ValueError) as caught:
        decode(text, Whole)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


def test_what_is_no_plain_data_is_not_written() -> None:
    with pytest.raises(TypeError, match="object is no plain data"):
        to_plain({"x": object()})


def test_texts_of_other_kinds_are_texts() -> None:
    """PyTorch's version is one, and a manifest holds it."""

    class Version(str):
        __slots__ = ()

    written = to_plain({"torch": Version("2.13.0+cpu")})
    assert type(written["torch"]) is str
    assert json.loads(json.dumps(written)) == {"torch": "2.13.0+cpu"}
