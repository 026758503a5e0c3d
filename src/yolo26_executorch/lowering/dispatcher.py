"""One shared object for several GPUs: each one's own, behind functions that pass calls on to the one that fits.

What calls a model's kernels is compiled with their names, grids and shared memory, which differ from GPU to GPU. So
each has its calling code, as AOTInductor made it, and the outermost object, C without a library, has AOTInductor's C
interface: when a model is opened on a GPU, it asks the driver for its compute capability and loads the object for it.
Weights are bound by name from outside, and so are there once.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import LoweringError, first_line

_FUNCTION = re.compile(r"AOTI_API\s+AOTIRuntimeError\s+(\w+)\(([^;]*?)\);")
_COMMENT = re.compile(r"//[^\n]*")
_HANDLE = "AOTInductorModelContainerHandle"
_DELETE = "AOTInductorModelContainerDelete"

_TEMPLATE = Path(__file__).with_name("dispatcher.c")


class Member(NamedTuple):
    """A shared object for one GPU."""

    capability: tuple[int, int]
    library: bytes
    exact: bool
    """Whether its machine code runs on this capability alone, and not on later minor ones."""
    ptx: bool
    """Whether newer GPUs run it through PTX."""
    shared_bytes: int
    """The most shared memory that one of its kernels takes."""


def build(members: Sequence[Member], path: Path, *, compiler: Sequence[str], libraries: str) -> None:
    """Write the shared object.

    Args:
        members: from the oldest GPU on.
        path: where to.
        compiler: the C compiler's command.
        libraries: a folder with NVIDIA's driver library, or what stands in for it, to link with.

    Raises:
        LoweringError: the compiler failed.
    """
    with tempfile.TemporaryDirectory(prefix="yolo26-et-dispatcher-") as private:
        folder = Path(private)
        rows, data = [], []
        for index, member in enumerate(members):
            (folder / f"{index}.so").write_bytes(member.library)
            numbers = (*member.capability, int(member.exact), int(member.ptx), member.shared_bytes)
            rows.append(f"    {{{', '.join(map(str, numbers))}, &member{index}, &end{index}}},")
            data.append(_embedded(index, folder / f"{index}.so"))
        names, forwards = _forwards(interface())
        source = _TEMPLATE.read_text(encoding="utf-8")
        for mark, text in {
            "@DATA@": "\n".join(data), "@MEMBERS@": "\n".join(rows), "@FORWARDS@": forwards,
            "@NAMES@": "\n".join(f'    "{name}",' for name in names),
        }.items():  # fmt: skip
            source = source.replace(f"/* {mark} */", text)
        (folder / "dispatcher.c").write_text(source, encoding="utf-8")
        command = [
            *compiler, "-shared", "-fPIC", "-O1", "-fvisibility=hidden", "-x", "c", str(folder / "dispatcher.c"),
            "-o", str(path), f"-L{libraries}", "-lcuda", "-ldl", "-lpthread",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LoweringError(f"the C compiler failed on the dispatcher: {first_line(ValueError(done.stderr))}")


def interface() -> str:
    """Return AOTInductor's C interface, as PyTorch's header declares it."""
    import torch

    header = Path(torch.__file__).parent / "include/torch/csrc/inductor/aoti_runtime/interface.h"
    return header.read_text(encoding="utf-8")


def _forwards(header: str) -> tuple[list[str], str]:
    """Return the functions that take a container, and C that passes each on."""
    names: list[str] = []
    lines: list[str] = []
    for name, words in _FUNCTION.findall(_COMMENT.sub("", header)):
        parameters = [" ".join(word.split()) for word in words.split(",")]
        kinds, variables = zip(*[re.fullmatch(r"(.*?)(\w+)", each).groups() for each in parameters], strict=True)  # type: ignore[union-attr]
        if kinds[0].strip() != _HANDLE:
            continue
        index = len(names)
        names.append(name)
        kept, *more = variables
        arguments = ", ".join([f"{kept}->handle", *more])
        signature = ", ".join(["void*", *(kind.strip() for kind in kinds[1:])])
        call = f"((AOTIRuntimeError (*)({signature})){kept}->functions[{index}])({arguments})"
        last = f"    free({kept});\n" if name == _DELETE else ""
        lines.append(
            f"EXPORTED AOTIRuntimeError {name}({', '.join(parameters)}) {{\n"
            f"    if (!{kept}->functions[{index}]) return 1;\n"
            f"    AOTIRuntimeError result = {call};\n{last}    return result;\n}}"
        )
    return names, "\n".join(lines)


def _embedded(index: int, path: Path) -> str:
    """Return C that embeds a file between the symbols member… and end…."""
    lines = [
        ".section .rodata",
        ".balign 16",
        f"member{index}:",
        f'.incbin "{path}"',
        f"end{index}:",
        ".byte 0",
        ".text",
    ]
    assembly = "\n".join(f"    {json.dumps(line + chr(10))}" for line in lines)
    declared = [
        f'extern const unsigned char {name}{index} __attribute__((visibility("hidden")));' for name in ("member", "end")
    ]
    return "\n".join([f"__asm__(\n{assembly});", *declared])
