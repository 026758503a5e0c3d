"""Measured tiles as files: the package's own, one for each architecture, and a user's, one for each kind of GPU.

JSON with a line for each problem: {"tiles": {key: [m, n, k, stages, warps, split_k]}, "us": {key: [microseconds, those
of the predicted tile, null where that one does not work]}, "full": [keys of problems that `--autotune full` has
searched], "versions": {…}, "measured": "…"}.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ...system.probe import cache_folder, versions
from ..kernels.tile import Tile


class TileTable:
    """A file of measured tiles, which need not exist; read anew at every call, since other processes may write it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of_package(cls, capability: tuple[int, int]) -> TileTable:
        """Return the table that ships for an architecture."""
        return cls(Path(__file__).with_name("tiles") / f"{capability[0]}.{capability[1]}.json")

    @classmethod
    def of_user(cls, gpu: str) -> TileTable:
        """Return the table that exports with `--autotune` keep for a GPU of this name."""
        return cls(cache_folder() / "tiles" / f"{re.sub('[^a-z0-9]+', '-', gpu.lower()).strip('-')}.json")

    def tiles(self) -> dict[str, Tile]:
        """Return the tiles by `cost_model.Problem.key`; none from a file that is damaged: it is measured again."""
        found = {}
        for key, values in self._content()["tiles"].items():
            with contextlib.suppress(TypeError, ValueError):
                if all(isinstance(value, int) and value > 0 for value in values):
                    found[str(key)] = Tile(*values)
        return found

    def searched(self, *, full: bool) -> set[str]:
        """Return the keys of the problems that need no further search."""
        return set(self._content()["full"]) & set(self.tiles()) if full else set(self.tiles())

    def add(self, key: str, tile: Tile, us: float, default_us: float | None, *, full: bool) -> None:
        """Write what was found for one problem; times in microseconds."""
        with self.locked("writing"):
            content = self._content()
            content["tiles"][key] = list(tile)
            content["us"][key] = [round(us, 2), None if default_us is None else round(default_us, 2)]
            content["full"] = sorted({*content["full"], key} if full else {*content["full"]} - {key})
            content |= {"versions": versions(), "measured": datetime.now(timezone.utc).isoformat(timespec="seconds")}
            part = self.path.with_suffix(".part")
            part.write_text(a_line_each(content), encoding="utf-8")
            part.replace(self.path)

    @contextlib.contextmanager
    def locked(self, what: str) -> Iterator[None]:
        """Keep other processes from doing the same to this table meanwhile."""
        import filelock

        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with filelock.FileLock(f"{self.path}.{what}.lock"):
            yield

    def _content(self) -> dict[str, Any]:
        empty: dict[str, Any] = {"tiles": {}, "us": {}, "full": []}
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return empty
        if not isinstance(content, dict):
            return empty
        same = {key: content[key] for key, value in empty.items() if isinstance(content.get(key), type(value))}
        return {**content, **empty, **same}


def a_line_each(content: dict[str, Any]) -> str:
    """Return a table as JSON with a line for each problem."""
    parts = []
    for name, value in sorted(content.items()):
        if isinstance(value, dict):
            rows = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value[key])}" for key in sorted(value))
            parts.append(f" {json.dumps(name)}: {{\n{rows}\n }}")
        else:
            parts.append(f" {json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"
