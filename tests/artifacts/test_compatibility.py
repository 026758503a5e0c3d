from __future__ import annotations

import dataclasses

import pytest

from support import make_manifest
from yolo26_executorch.artifacts.compatibility import check_platform
from yolo26_executorch.artifacts.manifest import Platform
from yolo26_executorch.errors import CompatibilityError

LINUX = {"system": "Linux", "machine": "x86_64"}


def test_a_gpu_that_is_not_covered_is_refused() -> None:
    manifest = make_manifest(platform=Platform("Linux", "x86_64", ("8.6",), ("8.9",)))
    check_platform(manifest, **LINUX, capability=(9, 0))
    with pytest.raises(CompatibilityError, match=r"capability 8\.6, 8\.9 and newer; this GPU is 8\.0: export"):
        check_platform(manifest, **LINUX, capability=(8, 0))


def test_platform_messages_name_both_sides_and_the_way_out() -> None:
    manifest = make_manifest()
    with pytest.raises(
        CompatibilityError, match=r"native code for Linux x86_64; this machine is Linux aarch64: .*export"
    ):
        check_platform(manifest, system="Linux", machine="aarch64", capability=(9, 0))
    with pytest.raises(CompatibilityError, match="this machine is Windows x86_64"):
        check_platform(manifest, system="Windows", machine="x86_64", capability=(9, 0))
    with pytest.raises(CompatibilityError, match=r"capability 8\.0 and newer, and no CUDA GPU .*doctor"):
        check_platform(manifest, **LINUX, capability=None)
    with pytest.raises(CompatibilityError, match="from its checkpoint"):
        check_platform(dataclasses.replace(manifest, variant=None), **LINUX, capability=(7, 0))


def test_cpu_artifacts_run_anywhere() -> None:
    check_platform(make_manifest(backend="xnnpack"), system="Darwin", machine="arm64", capability=None)


@pytest.mark.parametrize(
    ("needs", "has", "message"),
    [
        ({"glibc": "2.34"}, {"glibc": "2.31"}, "needs glibc 2.34 or newer; this machine has 2.31"),
        ({"glibcxx": "3.4.30"}, {"glibcxx": "3.4.9"}, r"needs libstdc\+\+ with GLIBCXX 3.4.30 or newer; .* has 3.4.9"),
    ],
)
def test_older_libraries_are_refused_before_loading(needs: dict[str, str], has: dict[str, str], message: str) -> None:
    platform = Platform("Linux", "x86_64", ("8.6",), (), **needs)  # type: ignore[arg-type]
    manifest = make_manifest(platform=platform)
    with pytest.raises(CompatibilityError, match=message):
        check_platform(manifest, **LINUX, capability=(8, 6), **has)  # type: ignore[arg-type]
    for fits in ({"glibc": "2.34", "glibcxx": "3.4.30"}, {"glibc": "2.40", "glibcxx": "3.4.100"}, {}):
        check_platform(manifest, **LINUX, capability=(8, 6), **fits)  # type: ignore[arg-type]
