"""Memory of freed tensors stays in the process where the C library can be told to keep it."""

import platform
import subprocess
import sys

import pytest

PAGES_OF_A_PASS = """
import resource
import torch, vov3d

block, clip = vov3d.D2plus1D(24, 54, 24).eval(), torch.ones(1, 24, 16, 112, 112)  # maps of 19 and 43 MB

def pages():
    for _ in range(4):  # the heap grows in the first passes, as freed pieces lie where they lie
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block(clip)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with torch.inference_mode():
    new = pages()
    assert vov3d.keep_freed_memory()
    print(pages(), new)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")
def test_a_pass_reuses_the_pages_of_the_last():
    command = [sys.executable, "-c", PAGES_OF_A_PASS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kept, new = map(int, done.stdout.split())
    assert kept < new / 4, (kept, new)
