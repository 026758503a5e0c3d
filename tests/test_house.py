"""The order of the package's rooms: each imports only from rooms before it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import yolo26_executorch

PACKAGE = Path(yolo26_executorch.__file__).parent
ROOMS = (
    ("errors",), ("system",), ("models",), ("lowering",), ("artifacts",), ("runtime",), ("parity",),
    ("exporter", "vision"), ("bench", "report"), ("cli",),
)  # fmt: skip
"""From the ground up; rooms of one floor import nothing of each other."""
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
ROOT = {"__init__.py", "__main__.py", "errors.py", "py.typed"}
MOST_LINES = 500


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and module, relative to the package, of every import of ours, wherever in the file it stands."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    package = list(parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == PACKAGE.name:
                    yield node.lineno, alias.name.partition(".")[2]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
                module = ".".join([*base, *filter(None, [node.module])])
            elif node.module and node.module.split(".")[0] == PACKAGE.name:
                module = node.module.partition(".")[2]
            else:
                continue
            if module:
                yield node.lineno, module
            else:
                yield from ((node.lineno, alias.name) for alias in node.names)


def upward(path: Path) -> list[str]:
    """Return a file's imports from its own floor's other rooms or from later ones."""
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    found = []
    for line, module in imports(path):
        other = module.split(".")[0]
        if other != room and (other not in FLOOR or FLOOR[other] >= FLOOR[room]):
            found.append(f"{path.relative_to(PACKAGE)}:{line} imports {module}")
    return found


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def test_there_are_rooms() -> None:
    assert {path.relative_to(PACKAGE).parts[0] for path in MODULES} == set(FLOOR) - {"errors"}
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} == ROOT


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_rooms_before_it(path: Path) -> None:
    assert not upward(path)


def test_the_kernels_import_nothing_of_ours() -> None:
    kernels = PACKAGE / "lowering" / "kernels"
    assert (kernels / "conv.py").exists()
    outside = [
        f"{path.name}:{line} imports {module}"
        for path in kernels.glob("*.py")
        for line, module in imports(path)
        if not module.startswith("lowering.kernels")
    ]
    assert not outside


def test_the_runtime_never_imports_the_lowering() -> None:
    found = [module for path in (PACKAGE / "runtime").glob("*.py") for _, module in imports(path)]
    assert any(module.startswith("artifacts") for module in found)
    assert not [module for module in found if module.startswith("lowering")]


@pytest.mark.parametrize("text", ["from ..cli import main", "import yolo26_executorch.cli", "from .. import cli"])
def test_an_import_upwards_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setitem(upward.__globals__, "PACKAGE", tmp_path / PACKAGE.name)
    path = tmp_path / PACKAGE.name / "models" / "tasks.py"
    path.parent.mkdir(parents=True)
    path.write_text(f"def late():\n    {text}\n")
    assert upward(path) == ["models/tasks.py:2 imports cli"]


TESTS = Path(__file__).parent


def test_no_test_module_imports_another() -> None:
    """What they share lies in tests/support; programs that tests start are text, and count."""
    modules = [*TESTS.rglob("test_*.py")]
    assert len(modules) > 50
    names = "|".join(sorted({path.stem for path in modules}))
    found = re.compile(rf"^ *(?:from|import) (?:\w+\.)*(?:{names})\b.*", re.MULTILINE)
    assert found.findall("from test_house import upward\nimport tests.test_house") != []
    assert [
        line for path in TESTS.rglob("*.py") if path != Path(__file__) for line in found.findall(path.read_text())
    ] == []


def test_no_file_is_too_long() -> None:
    tools = Path(__file__).parents[1] / "tools"
    long = {
        str(path): lines
        for path in [*PACKAGE.rglob("*.py"), *tools.rglob("*.py")]
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert not long
