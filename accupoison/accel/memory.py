"""What becomes of memory that a process has freed."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Of ``malloc.h``."""


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees, for its next tensors; return whether its C library can.

    By default glibc returns a large block to the system at once, and the next tensor of that size is a page fault for
    every 4 KiB (``benchmarks/alternatives.py``: what that takes of an evaluation, and what it does to the peak). The
    process stays as large as it has been. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return all([mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, -1), mallopt(M_TOP_PAD, 64 << 20)])
