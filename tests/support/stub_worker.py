"""How the stub workers of the tests begin: what they read and how they speak, as `exporter.export_process` has it."""

PREAMBLE = """
import json, os, pathlib, signal, subprocess, sys, time
job = json.loads(sys.stdin.read())
name = job["source"]["name"]
here = pathlib.Path(__file__).parent
def say(**event):
    print(json.dumps(event), flush=True)
def record(outcome="exported", **more):
    say(event="record", record={"name": name, "variant": name, "task": "detect", "backend": "xnnpack",
        "precision": "tf32", "outcome": outcome, **more})
"""
