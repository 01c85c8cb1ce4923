"""Freed memory that an update asks for again."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator is glibc's")

# The heap was seen, once, to grow by one more block (2,048 pages) after the first three updates. Over fifty updates
# that is a page in five hundred; memory that is returned and mapped anew is every page, at every update.
UPDATES = """
import resource
import torch
from unirl.allocator import keep_freed_memory

def update():
    blocks = [torch.ones(2**21) for _ in range(10)]  # 8 MB each

print(keep_freed_memory())
for _ in range(3):
    update()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    update()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def kept_and_pages_mapped_anew(**variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | variables
    shown = subprocess.run([sys.executable, "-c", UPDATES], env=environment, capture_output=True, text=True, check=True)
    kept, pages = shown.stdout.split()
    return kept == "True", int(pages)


def test_an_update_finds_the_memory_of_the_one_before():
    kept, pages = kept_and_pages_mapped_anew()
    assert kept and pages < 50 * 80e6 / 4096 / 100  # under one page in a hundred of what the updates allocate


def test_what_the_environment_set_up_stays():
    kept, pages = kept_and_pages_mapped_anew(MALLOC_MMAP_THRESHOLD_="65536")
    assert not kept and pages > 50 * 80e6 / 4096 / 2  # each block is mapped and returned
