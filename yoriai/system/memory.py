"""How much memory is left on this machine."""

import os
from pathlib import Path


def available_bytes() -> int:
    """Bytes that processes can still get without swapping, by the kernel's own estimate."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
