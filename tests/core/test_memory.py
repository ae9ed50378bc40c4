import os
import platform
import subprocess
import sys
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import pytest

from muster.core.memory import blank, forget, own_bytes, peak_rss_bytes, share_one_arena, trim

MB = 1 << 20


def test_what_is_taken_is_counted_and_the_peak_stays():
    before, peak = own_bytes(), peak_rss_bytes()
    held = bytearray(b"x" * (64 * MB))
    assert own_bytes() - before >= 60 * MB and peak_rss_bytes() >= max(peak, own_bytes())
    highest = peak_rss_bytes()
    del held
    assert own_bytes() - before < 32 * MB and peak_rss_bytes() == highest


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="only Linux tells them apart")
def test_what_the_parent_held_is_not_counted():
    held = bytearray(b"x" * (128 * MB))
    code = "from muster.core.memory import peak_rss_bytes; print(peak_rss_bytes())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 4 * MB < int(told) < len(held)


@pytest.mark.parametrize("span", [slice(0, 3), slice(1, 200_000), slice(0, 0), slice(777, 999_999)])
@pytest.mark.parametrize("shared", [False, True])
def test_what_is_forgotten_is_zero_and_nothing_else(span, shared):
    memory = SharedMemory(create=True, size=8_000_000) if shared else None
    array = np.zeros(1_000_000, np.int64) if memory is None else np.ndarray(1_000_000, np.int64, memory.buf)
    array[:] = np.arange(1, 1_000_001)
    expected = array.copy()
    expected[span] = 0
    forget(array[span])
    assert array.tobytes() == expected.tobytes()
    if memory is not None:
        del array
        memory.close()
        memory.unlink()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere zeros are written")
def test_pages_are_given_back():
    array = np.ones(8 * MB, np.int64)
    before = own_bytes()
    forget(array)
    assert before - own_bytes() > 60 * MB
    held = [bytearray(b"x" * 60_000) for _ in range(1000)]
    keeps = held[-1]
    before = own_bytes()
    del held  # what is freed below `keeps` stays with the C library
    trim(1000)
    assert before - own_bytes() < 30 * MB
    trim(100 * MB)
    assert before - own_bytes() > 50 * MB and keeps


@pytest.mark.parametrize("size", [1, 1000, 3 * MB])
def test_a_blank_vector_is_zeros_at_a_multiple_of_64_bytes(size):
    vector = blank(size)
    assert vector.shape == (size,) and vector.dtype == np.float32 and not vector.any()
    assert vector.ctypes.data % 64 == 0
    vector[:] = 1
    assert vector.sum() == size


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_what_is_freed_is_there_for_the_next_that_asks():
    code = """
import resource, sys
from muster.core.memory import keep_freed, trim
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        [b"x" * (5 << 20) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
given_back = faults()
keep_freed()
faults()
print(given_back, faults())
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    given_back, kept = map(int, told.split())
    assert kept < 500 < 10_000 < given_back


def test_threads_share_an_arena_where_the_c_library_has_several():
    assert share_one_arena() == (platform.libc_ver()[0] == "glibc")
