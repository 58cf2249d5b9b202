"""Which processor this is."""

import platform
from pathlib import Path


def processor(field: str) -> str:
    """Return a field of /proc/cpuinfo; without one, what Python knows about the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(field):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor()
