"""Damage an exported program inside, as a faulty compiler could, and seal it, so that only its numbers tell."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from yolo26_executorch.artifacts import program_file
from yolo26_executorch.artifacts.manifest import CARD, MANIFEST, PROGRAM
from yolo26_executorch.artifacts.reading import load_manifest
from yolo26_executorch.artifacts.writing import Draft

Damage = Callable[[Path], None]
"""Rewrites a program file."""


def damaged(folder: Path, base: Path, damage: Damage) -> Path:
    """Return a copy of an artifact in `base` whose program is damaged, with the hashes of what it now holds."""
    manifest = load_manifest(folder)
    before = (folder / PROGRAM).read_bytes()
    with Draft(base, manifest.name) as draft:
        shutil.copytree(folder, draft.folder, dirs_exist_ok=True)
        damage(draft.folder / PROGRAM)
        assert (draft.folder / PROGRAM).read_bytes() != before
        (draft.folder / MANIFEST).unlink()
        return draft.commit(manifest, (folder / CARD).read_text())


def flip_weight_bits(program: Path) -> None:
    """Flip the sign of one weight in a hundred, in the largest block of weights alone."""
    weights = max(program_file.read_named_data(program).values(), key=len)
    content = bytearray(program.read_bytes())
    start = content.find(weights)
    assert start > 0
    content[start + 3 : start + len(weights) : 400] = bytes(
        byte ^ 0x80 for byte in content[start + 3 : start + len(weights) : 400]
    )
    program.write_bytes(content)


def swap_columns(program: Path) -> None:
    """Give the last step, which joins the columns, the confidences for the classes and the other way round."""

    def edit(plan: Any, _: list[Any]) -> None:
        [*_, last] = (step.instr_args for step in plan.chains[0].instructions)
        flat = [at for at, value in enumerate(last.args[:-1]) if _sizes(plan, value) == [1, 300]]
        first, second = flat
        last.args[first], last.args[second] = last.args[second], last.args[first]

    _rewrite(program, edit)


def drop_sort(program: Path) -> None:
    """Ask the last top-k for the highest values in any order."""

    def edit(plan: Any, _: list[Any]) -> None:
        *_, last = _calls(plan, "aten::topk")
        plan.values[last.args[4]].val.bool_val = False

    _rewrite(program, edit)


def shift_keypoints(program: Path) -> None:
    """Move every keypoint by one pixel to the right: a step more, on the keypoints of the chosen rows."""
    from executorch.exir.schema import Buffer, EValue, Int, KernelCall, ScalarType, Tensor, TensorShapeDynamism

    def edit(plan: Any, constants: list[Any]) -> None:
        steps = plan.chains[0].instructions
        rows = [value for value in steps[-1].instr_args.args[:-2] if len(_sizes(plan, value)) == 3]
        keypoints = max(rows, key=lambda value: _sizes(plan, value)[-1])
        values = _sizes(plan, keypoints)[-1]
        constants.append(Buffer(np.tile(np.array([-1, 0, 0], np.float32), values // 3).tobytes()))
        shift = Tensor(
            ScalarType.FLOAT, 0, [values], [0], False, 0, len(constants) - 1, None, TensorShapeDynamism.STATIC
        )
        plan.values += [EValue(shift), EValue(Int(1))]
        added = len(plan.values) - 2
        step = copy.copy(steps[-1])
        step.instr_args = KernelCall(
            next(i for i, operator in enumerate(plan.operators) if operator.name == "aten::sub"),
            [keypoints, added, added + 1, keypoints, keypoints],
        )
        steps.insert(len(steps) - 1, step)

    _rewrite(program, edit)


def _calls(plan: Any, operator: str) -> list[Any]:
    steps = [step.instr_args for step in plan.chains[0].instructions]
    return [s for s in steps if hasattr(s, "op_index") and plan.operators[s.op_index].name == operator]


def _sizes(plan: Any, value: int) -> list[int]:
    found: list[int] = getattr(plan.values[value].val, "sizes", [])
    return found


def _rewrite(program: Path, edit: Callable[[Any, list[Any]], None]) -> None:
    """Change a program's steps and values, or its constants."""
    from executorch.exir._serialize import _serialize_pte_binary

    file = program_file._read_program(program)
    edit(file.program.execution_plan[0], file.program.constant_buffer)
    program.write_bytes(bytes(_serialize_pte_binary(file)))
