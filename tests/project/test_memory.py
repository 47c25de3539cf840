"""Memory of freed tensors stays in the process where the C library can be told to keep it."""

import platform
import subprocess
import sys

import pytest

PAGES_OF_A_PASS = """
import resource, sys
import torch, vov3d

if sys.argv[1] == "kept":
    assert vov3d.keep_freed_memory()
block, clip = vov3d.D2plus1D(24, 54, 24).eval(), torch.ones(1, 24, 16, 112, 112)  # maps of 19 and 43 MB
with torch.inference_mode():
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block(clip)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")
def test_a_pass_reuses_the_pages_of_the_last():
    def pages(how: str) -> int:
        command = [sys.executable, "-c", PAGES_OF_A_PASS, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    kept, new = pages("kept"), pages("not kept")
    assert kept < new / 4, (kept, new)
