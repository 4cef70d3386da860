"""How well this host's CPU multiplies 8-bit integers: part of the key of engines that run on it.

An INT8 engine that is right and fast where the CPU has instructions for dot products of bytes may overflow, or be
slower than FP32, where it has not; so an engine that was proven and timed on one kind is not taken on another.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

CPU: Final = "cpu"
"""No such instructions, or none that are known of."""
CPU_WITH_BYTE_PRODUCTS: Final = "cpu_int8dot"

_CPUINFO: Final = Path("/proc/cpuinfo")
_FLAGS: Final = frozenset({"avx512_vnni", "avx_vnni", "asimddp", "i8mm"})
"""Linux's names, of x86-64 and AArch64."""


def cpu_device(cpuinfo: Path = _CPUINFO) -> str:
    """Name the kind of this CPU, for `models.engines.built.EngineKey.device`."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return CPU
    lines = re.findall(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return CPU_WITH_BYTE_PRODUCTS if any(_FLAGS.intersection(line.split()) for line in lines) else CPU
