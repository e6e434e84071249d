"""What the heap keeps between chunks, counted in page faults of a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.encoded import encode_fast, tissue

EACH, MOST_FAULTS = 20, 100  # chunks of a thread; without, a chunk takes 200 to 1,200
SCRIPT = f"""
import resource, sys, threading
import torch
from inrwsi.decode import Decoder

def work(times):
    torch.set_num_threads(1)
    for _ in range(times):
        tiles._compute(0, (0, 0))

def in_two_threads(times):
    threads = [threading.Thread(target=work, args=(times,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

with Decoder(sys.argv[1], device="cpu") as decoder:
    tiles = decoder._model
    in_two_threads(5)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    in_two_threads({EACH})
    print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / (2 * {EACH}))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heap's settings are glibc's")
def test_pages_of_a_chunk_are_kept_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / "a.cinr"
    encode_fast(tissue((512, 512)), path)
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < MOST_FAULTS
