from __future__ import annotations

import os
import tempfile

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Keep Ultralytics, here and in what the tests start, off the network, pip and the user's settings."""
    # A folder for each worker: Ultralytics writes its settings without a lock when it is first imported.
    settings = tempfile.TemporaryDirectory(prefix="yolo26-et-tests-")
    config.add_cleanup(settings.cleanup)
    os.environ |= {
        "YOLO_CONFIG_DIR": settings.name,
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        # Whichever test imports it first would find its greeting on standard output.
        "YOLO_VERBOSE": "false",
    }
