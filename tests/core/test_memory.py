import os
import subprocess
import sys

import pytest

from muster.core.memory import own_bytes, peak_rss_bytes

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
