"""Manifests as JSON, whole and changed at random."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

from support import make_manifest
from yolo26_executorch.artifacts.manifest import PROGRAM, WEIGHTS, DelegateRecord, FileRecord

RECORD = FileRecord("a" * 64, 1)


def valid() -> dict[str, Any]:
    """Return a manifest that is accepted."""
    delegate = DelegateRecord("CudaBackend", 7, {"aten::x": 1})
    files = {PROGRAM: RECORD, WEIGHTS: RECORD}
    data: dict[str, Any] = json.loads(json.dumps(make_manifest(files=files, delegate=delegate).to_json()))
    return data


JUNK: list[Any] = [None, True, 0, -1, 1.5, 10**30, "", "x", "../x", "\x1b[2J", [], [1], {}, {"a": 1}, [[]], "9.0", "0"]


def mutate(data: Any, chance: random.Random, junk: Sequence[Any] = JUNK) -> None:
    """Replace, delete, rename or add one node somewhere below."""
    nodes: list[Any] = [data]
    for node in nodes:
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
        nodes += [child for child in children if isinstance(child, dict | list)]
    node = chance.choice([node for node in nodes if node])
    key = chance.choice(list(node) if isinstance(node, dict) else range(len(node)))
    act = chance.randrange(4)
    if act == 0:
        del node[key]
    elif act == 1 and isinstance(node, dict):
        node[key + "x"] = node.pop(key)
    elif act == 2 and isinstance(node, list):
        node.append(chance.choice(junk))
    else:
        node[key] = copy.deepcopy(chance.choice(junk))
