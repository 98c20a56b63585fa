"""What a measurement was taken on: processor, memory, versions. Nothing that names the machine or its user."""

import os
import platform
from importlib import metadata
from pathlib import Path

_PACKAGES = ("yoriai", "torch", "transformers", "peft", "opacus", "numpy", "flwr", "cryptography")


def machine() -> dict[str, object]:
    """`hardware`, and the graphics card if there is one."""
    return hardware() | {"gpu": _gpu()}


def hardware() -> dict[str, object]:
    """Processor model, cores that this process may use, memory in GiB, and system."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages * page_bytes / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def cards() -> list[str]:
    """What NVIDIA's driver says of each graphics card, for whoever has no torch at hand; empty without one."""
    return [file.read_text() for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]


def versions() -> dict[str, str]:
    """Of Python and of the packages that a result hangs on."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in _PACKAGES}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
