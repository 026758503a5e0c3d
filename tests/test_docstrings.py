"""Every public name shows how it is used; the examples compile, and those that need but an artifact are run."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import yolo26_executorch

NAMES = yolo26_executorch.__all__
PARSER = doctest.DocTestParser()


def docstring(name: str) -> str:
    """Return a public name's docstring; a table's is the text below it."""
    value = getattr(yolo26_executorch, name)
    if not isinstance(value, dict):
        return inspect.getdoc(value) or ""
    home = next(module for module, names in yolo26_executorch._HOMES.items() if name in names)
    body = ast.parse(inspect.getsource(importlib.import_module(f"yolo26_executorch.{home}"))).body
    for node, text in itertools.pairwise(body):
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            assert isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            return inspect.cleandoc(str(text.value.value))
    raise AssertionError(f"{name} is not assigned in {home}")


def example(text: str) -> str:
    """Return the code of a docstring's examples; raises SyntaxError where it is none."""
    code = "".join(part.source for part in PARSER.get_examples(text))
    ast.parse(code)
    return code


def methods(name: str) -> list[str]:
    value = getattr(yolo26_executorch, name)
    if not inspect.isclass(value):
        return []
    kinds = (property, classmethod, staticmethod)
    return [
        key for key, own in vars(value).items() if key[0] != "_" and (inspect.isfunction(own) or isinstance(own, kinds))
    ]


def texts(name: str) -> list[str]:
    """Return a name's docstring and its methods'."""
    value = getattr(yolo26_executorch, name)
    return [docstring(name), *(inspect.getdoc(getattr(value, method)) or "" for method in methods(name))]


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_and_method_has_an_example(name: str) -> None:
    whole, *of_methods = texts(name)
    used = {"TensorSpec": "outputs[0]", "Variant": "VARIANTS[", "Task": "TASKS[", "Runner": "open_runner("}.get(
        name, name
    )
    assert used in example(whole)
    for method, text in zip(methods(name), of_methods, strict=True):
        assert f".{method}" in example(text) + example(whole), f"{name}.{method}"


def test_a_name_without_an_example_would_be_found() -> None:
    assert example("Does this.\n\nArgs:\n    path: where.") == ""
    with pytest.raises(SyntaxError):
        example("Example:\n    >>> open(\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_examples_work(
    name: str, exported: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(exported("detect"), tmp_path / "yolo26_cuda_exports" / "yolo26n")
    monkeypatch.chdir(tmp_path)
    known = {key: getattr(yolo26_executorch, key) for key in NAMES} | {"Path": Path}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, verbose=False)
    said: list[str] = []
    for text in texts(name):
        runner.run(PARSER.get_doctest(text, dict(known), name, None, None), out=said.append)
    assert runner.failures == 0, "".join(said)
