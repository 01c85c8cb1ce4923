"""Memory that a process has freed and will soon ask for again."""

import ctypes
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # numbers of the settings in <malloc.h>
KEPT = 2**30
LARGEST_MMAP_THRESHOLD = 2**25  # glibc takes no more


def keep_freed_memory() -> bool:
    """Let glibc keep up to a gigabyte that was freed, and blocks of up to 32 MB on its heap; returns whether it does.

    An update allocates and frees the same blocks every time. By default glibc returns the end of the heap to the system
    as soon as 64 MB or fewer are free, and the next update has every page mapped and cleared anew. Nothing is changed
    where the C library is another one, or where a `MALLOC_` variable of the environment has set it up.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(TRIM_THRESHOLD, KEPT) and mallopt(MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD))
