"""A benchmark's worker that measures nothing, and made-up reports."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from yolo26_executorch.bench.records import Achieved, Ceilings, Latency, Load, Machine, Memory, Report, Round, Row, Work

SCRIPT = """
import json, os, sys, time
behaviours, log = json.load(open(sys.argv[1])), sys.argv[1] + ".log"
job = json.loads(sys.stdin.readline())
name = " ".join(filter(None, (job["kind"], job["subject"], job["mode"])))
how = behaviours.get(name, "good")
def say(event, **more):
    print(json.dumps({"event": event, **more}), flush=True)
def note(what):
    with open(log, "a") as file:
        print(what, name, file=file)
note("start")
if how == "dies":
    print("something broke", file=sys.stderr)
    sys.exit(3)
if how == "killed":
    os.kill(os.getpid(), 9)
if how == "hangs":
    time.sleep(600)
if how in ("failed", "skipped"):
    say(how, message="because of\\x1b[2J it")
    sys.exit()
if how == "noisy":
    print("no event")
    print("[1]")
    print(json.dumps({"no": "event"}), flush=True)
if job["kind"] == "ceilings":
    say("answer", device=job["device"], precision=job["precision"], gflop_s=1000.0, gb_s=10.0, method="made up")
elif job["kind"] == "work":
    say("answer", gflop=5.0, gb=0.01, floor_ms=None)
else:
    say("ready", runner="stub", device="cpu", settings={"threads": "1"}, clock="host clock", graph_equals_call=None,
        load={"import_s": 1.0, "open_s": 2.0, "first_s": 0.5, "first_result_s": 3.5},
        memory={"host_bytes": 100000000, "gpu_bytes": 7, "gpu_tensors_bytes": None})
    for number, line in enumerate(sys.stdin):
        request = json.loads(line)
        note("round")
        if how == "dies in round 2" and number == 1:
            sys.exit(4)
        p50 = 10.0 + number
        say("round", runs=request["runs"], p20_ms=p50 - 1, p50_ms=p50, p80_ms=p50 + 2, block_ms=None, cold_ms=None,
            sm_mhz=None, power_w=None, temperature_c=None)
"""


def stub_worker(folder: Path, **behaviours: str) -> tuple[tuple[str, ...], Path]:
    """Write a worker; returns its command and the file that will hold what it did, line by line.

    Behaviours go by the job's kind, subject and mode with underscores: `row_eager_host="dies"`.
    """
    script, table = folder / "stub.py", folder / "behaviours.json"
    script.write_text(SCRIPT)
    table.write_text(json.dumps({name.replace("_", " "): how for name, how in behaviours.items()}))
    return (sys.executable, "-I", "-S", str(script), str(table)), Path(f"{table}.log")


def round_of(p50: float, **changes: Any) -> Round:
    fields: dict[str, Any] = {
        "runs": 100, "p20_ms": p50 * 0.9, "p50_ms": p50, "p80_ms": p50 * 1.2, "block_ms": p50 * 0.8,
        "cold_ms": p50 * 2, "sm_mhz": 1980.0, "power_w": 350.0, "temperature_c": 40.0,
    }  # fmt: skip
    return Round(**{**fields, **changes})


def row(subject: str = "artifact", mode: str = "graph", p50: float | None = 1.0, **changes: Any) -> Row:
    """Make up a row; without a median it was skipped."""
    rounds = () if p50 is None else (round_of(p50), round_of(p50 * 1.1), round_of(p50 * 0.95))
    fields: dict[str, Any] = {
        "artifact": "out/yolo26n", "name": "yolo26n", "variant": "yolo26n", "task": "detect", "backend": "cuda",
        "precision": "fp16", "imgsz": (640, 640), "batch": 1, "input": "float32", "subject": subject, "mode": mode,
        "outcome": "measured" if rounds else "skipped", "message": None if rounds else "not installed: it",
        "runner": "aoti", "device": "cuda", "clock": "device events", "settings": {"io": "host"},
        "graph_equals_call": True if mode == "graph" else None, "load": Load(3.0, 1.0, 0.5, 4.5),
        "memory": Memory(10**9, 6 * 10**8, 10**8), "latency": Latency.of(rounds) if rounds else None,
        "achieved": Achieved(5480.0, 51.2, 0.01, 0.02) if rounds else None, "rounds": rounds,
    }  # fmt: skip
    return Row(**{**fields, **changes})


def report(*rows: Row, **changes: Any) -> Report:
    """Make up a report."""
    fields: dict[str, Any] = {
        "command": "yolo26-et bench out/yolo26n", "created": "2026-11-22T08:00:00+00:00", "commit": "a" * 40,
        "modified": False, "machine": Machine("NVIDIA H100", (9, 0), "580.1", "AMD EPYC", 16, "Ubuntu 24.04"),
        "versions": {"torch": "2.13.0", "gpu": "NVIDIA H100", "triton": "none"}, "method": {"figures": "medians"},
        "interrupted": False, "ceilings": (Ceilings("cuda", "fp16", 7e5, 3e3, "made up"),),
        "work": {"out/yolo26n": Work(5.48, 0.0512, 0.017)}, "warnings": (), "rows": rows,
    }  # fmt: skip
    return Report(**{**fields, **changes})
