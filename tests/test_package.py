from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import subprocess
import sys

import pytest

import yolo26_executorch
from support import project
from yolo26_executorch import cli, errors


def test_every_public_name_is_there_and_explains_itself() -> None:
    assert len(yolo26_executorch.__all__) == len(set(yolo26_executorch.__all__))
    for name in yolo26_executorch.__all__:
        value = getattr(yolo26_executorch, name)
        assert not callable(value) or inspect.getdoc(value)
    assert set(yolo26_executorch.__all__) <= set(dir(yolo26_executorch))


def test_the_names_imported_late_are_those_of_their_modules() -> None:
    late = {name: module for module, names in yolo26_executorch._HOMES.items() for name in names}
    assert set(late) | {name for name in vars(errors) if name.endswith("Error")} == set(yolo26_executorch.__all__)
    for name, module in late.items():
        home = importlib.import_module(f"yolo26_executorch.{module}")
        assert getattr(yolo26_executorch, name) is getattr(home, name)


def test_all_errors_are_public() -> None:
    tree = {errors.Yolo26Error, *_below(errors.Yolo26Error)}
    tree = {
        error for error in tree if error.__module__.startswith("yolo26") and error.__name__[0] != "_"
    }  # a module's own
    assert {error.__name__ for error in tree} <= set(yolo26_executorch.__all__)
    assert all(error.__name__ in (errors.__doc__ or "") for error in tree)


def _below(error: type[Exception]) -> set[type[Exception]]:
    return {found for child in error.__subclasses__() for found in (child, *_below(child))}


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        yolo26_executorch.nonsense  # noqa: B018


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, yolo26_executorch as package\n"
        "assert not [name for name in sys.modules if name.startswith('yolo26_executorch.') and name[18:] != 'errors']\n"
        "from yolo26_executorch import *\n"
        "package.find_variants(['yolo26n']), package.ExportOptions()\n"
        "assert not {'torch', 'executorch', 'ultralytics', 'numpy', 'cv2', 'PIL', 'rich'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_leads_to_the_command_line() -> None:
    ((name, target),) = project()["scripts"].items()
    script = importlib.metadata.EntryPoint(name, target, "console_scripts")
    assert (script.name, script.load()) == (cli.PROG, cli.main)
