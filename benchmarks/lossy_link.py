"""A bad network link inside one machine: two network namespaces, and packets that get lost between them.

The kernel's own TCP runs over it, with all of its retransmissions; what `tc netem` does in a kernel that has
it. Needs Linux, root and /dev/net/tun.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import queue
import random
import struct
import subprocess
import threading
import time

CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
HERE, THERE = "10.77.0.1", "10.77.0.2"
MTU = 1500


class LossyLink:
    """Puts the calling thread, and what it starts, at one end; `cross` takes it to the other.

    Args:
        loss: Chance of each packet to be lost, each way.
        delay_secs: Of each packet, each way: half of the round trip.
        seed: Which packets get lost.

    Attributes:
        dark: While it is set every packet gets lost.
        num_packets: That came to the link.
        num_lost: Of them.

    """

    def __init__(self, loss: float, delay_secs: float, seed: int = 0) -> None:
        self.loss, self.delay_secs, self.dark = loss, delay_secs, threading.Event()
        self.num_packets = self.num_lost = 0
        self._draw = random.Random(seed)
        self._here = _end(HERE)

    def cross(self) -> None:
        """Goes to the other end, and begins to carry packets."""
        there = _end(THERE)
        for source, sink in ((self._here, there), (there, self._here)):
            line: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
            threading.Thread(target=self._take, args=(source, line), daemon=True).start()
            threading.Thread(target=_bring, args=(line, sink), daemon=True).start()

    def _take(self, source: int, line: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        while packet := os.read(source, MTU):
            self.num_packets += 1
            if self.dark.is_set() or self._draw.random() < self.loss:
                self.num_lost += 1
            else:
                line.put((time.monotonic() + self.delay_secs, packet))


def _bring(line: queue.SimpleQueue[tuple[float, bytes]], sink: int) -> None:
    while True:
        due, packet = line.get()
        time.sleep(max(0.0, due - time.monotonic()))
        os.write(sink, packet)


def _end(address: str) -> int:
    """A new network namespace for this thread, with a device of that address; returns its descriptor."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "no network namespace: this needs root")
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", b"muster0", IFF_TUN | IFF_NO_PI))
    for command in ("link set lo up", f"addr add {address}/24 dev muster0", "link set muster0 up"):
        subprocess.run(["ip", *command.split()], check=True)
    return device
