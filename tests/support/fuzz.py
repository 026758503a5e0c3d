"""Random damage, and what is asked of those that read it."""

from __future__ import annotations

import contextlib
import copy
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from support.manifests import JUNK
from yolo26_executorch.errors import ArtifactError, Yolo26Error

SEED = int(os.environ.get("YOLO26_ET_TEST_SEED", "0"))
"""Where random inputs begin: elsewhere each day in `make test-all`."""
LIMIT_S = 60
"""For one case, against endless loops; most take a millisecond."""


def seeds(count: int) -> range:
    """Return the seeds of as many cases."""
    return range(SEED * 1_000_000, SEED * 1_000_000 + count)


@contextlib.contextmanager
def case(seed: int) -> Iterator[random.Random]:
    """Give a case its randomness and its time, and name its seed where it fails."""

    def late(*_: object) -> None:
        raise AssertionError(f"it took longer than {LIMIT_S} s")

    watched = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, late) if watched else None
    try:
        if watched:
            signal.alarm(LIMIT_S)
        yield random.Random(seed)  # noqa: S311
    except BaseException:
        print(f"seed {seed}: run it again with YOLO26_ET_TEST_SEED={SEED}")
        raise
    finally:
        if watched:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)


def damage(data: bytes, chance: random.Random, first: int | None = None) -> bytes:
    """Change some bytes, put a telling number somewhere, cut, drop, double, or swap parts; never returns the same.

    `first` keeps to that many bytes at the front, where everything is described.
    """
    end = len(data) if first is None else first
    changed = bytearray(data)
    while changed == data:
        at, other = chance.randrange(end), chance.randrange(end)
        size = chance.choice((1, 4, 8, 32))
        number = chance.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, len(data), chance.randrange(end)))
        act = chance.randrange(8)
        if act == 0:
            del changed[chance.randrange(len(data)) :]
        elif act == 1:
            del changed[at : at + size]
        elif act == 2:
            changed[at:at] = changed[other : other + size]
        elif act == 3:
            changed[at : at + size] = changed[other : other + size]
        elif act == 4:
            changed[at - at % 4 : at - at % 4 + 8] = number.to_bytes(8, "little")
        elif act == 5:
            changed[at - at % 4 : at - at % 4 + 4] = (number % 2**32).to_bytes(4, "little")
        else:
            for _ in range(chance.randint(1, 4)):
                changed[chance.randrange(end)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def refusal(read: Callable[[], object], kind: type[Yolo26Error] = ArtifactError) -> str | None:
    """Return what was said, where something was refused; any error but ours passes through."""
    try:
        read()
    except kind as error:
        assert str(error).isprintable()
        return str(error)
    return None


def junk(chance: random.Random) -> Any:
    """Return what nobody expects in a manifest."""
    deep: Any = []
    for _ in range(chance.choice((40, 60, 120))):
        deep = [deep] if chance.random() < 0.5 else {"x": deep}
    made: list[Any] = [
        deep, 10**14, 10**15, -(10**400), 1e308, -0.0, "\0", "../" * 9 + "etc/passwd", "/dev/zero", "..", "a" * 5000,
        "\u202e\x9b31m", {"quantities": [{"max": 10**500}]}, [{"input": {}, "against": []}], {"": {"": None}},
    ]  # fmt: skip
    return copy.deepcopy(chance.choice(made + JUNK))
