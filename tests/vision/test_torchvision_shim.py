from __future__ import annotations

import pytest

from yolo26_executorch.vision import torchvision_shim
from yolo26_executorch.vision.torchvision_shim import with_torchvision


def calls(monkeypatch: pytest.MonkeyPatch, words: str) -> list[str]:
    """Call what fails once with a RuntimeError; returns the names of what was called."""
    called: list[str] = []
    monkeypatch.setattr(torchvision_shim, "_import_without_operators", lambda: called.append("import"))

    def opens() -> int:
        called.append("call")
        if called == ["call"]:
            raise RuntimeError(words)
        return 26

    assert with_torchvision(opens) == 26
    return called


def test_what_failed_for_want_of_operators_is_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert calls(monkeypatch, "operator torchvision::nms does not exist") == ["call", "import", "call"]


def test_other_failures_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="no camera"):
        calls(monkeypatch, "no camera")


def test_it_can_be_imported_here() -> None:
    assert torchvision_shim.import_torchvision().ops.nms
