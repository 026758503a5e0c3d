"""Benchmarks of artifacts and of their peers, as data.

    rows       what is measured and what was found: records that go to JSON and back
    plan       which rows there are, and which of them cannot run here
    session    a process for each row, all of them measured in turns; makes a `Report`
    process    one such process, seen from the outside
    worker     the same, from the inside
    peers      PyTorch eager, torch.compile, ONNX Runtime and TensorRT, behind the runners' protocol
    timing     warm-up, device events, the host's clock, percentiles, the GPU's own readings
    roofline   what the model has to compute and move, and what this machine can at most
    show       tables and the plot, made from a report

None of these modules loads PyTorch before it has to.
"""

from __future__ import annotations

from .matrix import Settings
from .records import MODES, PEERS, Report, Row
from .runner import measure

__all__ = ["MODES", "PEERS", "Report", "Row", "Settings", "measure"]
