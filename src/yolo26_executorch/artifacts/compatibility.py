"""Whether an artifact can run on a machine."""

from __future__ import annotations

from ..errors import CompatibilityError
from .manifest import Manifest


def check_platform(
    manifest: Manifest, *, system: str, machine: str, capability: tuple[int, int] | None, gpu: str = "this GPU",
    glibc: str | None = None, glibcxx: str | None = None,
) -> None:  # fmt: skip
    """Refuse an artifact that cannot run on a machine, before it is loaded.

    Args:
        manifest: the artifact's.
        system: `platform.system()` of the machine.
        machine: `platform.machine()` of the machine.
        capability: compute capability (major, minor) of its GPU; None without one.
        gpu: what that GPU is called in a message.
        glibc: the version of the machine's C library, such as "2.36"; None where it is not known.
        glibcxx: the newest version of its libstdc++'s symbols, such as "3.4.30"; None where it is not known.

    Raises:
        CompatibilityError: naming what the artifact is for and what the machine is.
    """
    platform = manifest.platform
    wanted, here = (platform.system, platform.machine), (system, machine)
    if any(want not in ("any", have) for want, have in zip(wanted, here, strict=True)):
        raise CompatibilityError(
            f"{manifest.name} holds native code for {' '.join(wanted)}; this machine is {' '.join(here)}: "
            f"{_export_again(manifest)}"
        )
    if manifest.backend != "cuda":
        return
    for library, needed, have in (
        ("glibc", platform.glibc, glibc),
        ("libstdc++ with GLIBCXX", platform.glibcxx, glibcxx),
    ):
        if needed and have and _version(needed) > _version(have):
            raise CompatibilityError(
                f"{manifest.name} holds native code that needs {library} {needed} or newer; this machine has {have}: "
                f"{_export_again(manifest)}, or on a system as old as the oldest that is to run it"
            )
    compiled = f"{manifest.name} was compiled for compute capability {', '.join(platform.capabilities) or 'none'}"
    if capability is None:
        raise CompatibilityError(
            f"{compiled}, and no CUDA GPU is seen here: `yolo26-et doctor` says why, and --backend xnnpack exports "
            "for the CPU"
        )
    if not platform.runs_on(capability):
        raise CompatibilityError(f"{compiled}; {gpu} is {capability[0]}.{capability[1]}: {_export_again(manifest)}")


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def _export_again(manifest: Manifest) -> str:
    again = f"yolo26-et export --models {manifest.variant} --backend {manifest.backend}" if manifest.variant else ""
    return f"export it again here, with `{again}`" if again else "export it again here, from its checkpoint"
