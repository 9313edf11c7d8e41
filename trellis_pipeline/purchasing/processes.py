"""Which process is doing something, and whether it still lives.

Work that a killed process left behind should be taken up at once, not when a lease runs out. On one machine
that can be known: a process is its number and its birth, because numbers are given again.
"""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path


def this_process() -> str:
    """`machine:pid:birth` of the calling process, the same as long as it lives."""
    return f"{_machine()}:{os.getpid()}:{_birth(os.getpid())}"


def is_gone(process: str) -> bool:
    """Whether the process of that name certainly lives no more. One on another machine never is."""
    machine, _, rest = process.partition(":")
    pid, _, birth = rest.partition(":")
    if machine != _machine() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return _birth(int(pid)) != birth


@cache
def _machine() -> str:
    """Host name and space of process numbers: two containers of one host see different processes."""
    try:
        space = str(Path("/proc/self/ns/pid").stat().st_ino)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        space = boot = ""
    return f"{socket.gethostname()}.{boot}.{space}".replace(":", "_")


def _birth(pid: int) -> str:
    """When the process began, in clock ticks since boot (proc(5), field 22); empty without a /proc.

    Empty, too, for one that has ended and that its parent has not asked about yet.
    """
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if after_name[0] in "ZX" else after_name[19]
