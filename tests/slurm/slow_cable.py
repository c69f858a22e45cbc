#!/usr/bin/env python3
"""A cable between two network namespaces that takes its time, for kernels without netem: what goes into one end comes out
of the other so many milliseconds later. Ends when its standard input does.

    slow_cable.py DEVICE MILLISECONDS NAMESPACE ADDRESS/BITS NAMESPACE ADDRESS/BITS
"""
import collections
import ctypes
import fcntl
import os
import select
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI, CLONE_NEWNET = 0x400454CA, 1, 0x1000, 0x40000000
LONGEST = 65535


def enter(path):
    with open(path) as space:
        if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {path}")


def make_end(device, namespace, address):
    enter(f"/run/netns/{namespace}")
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
    for words in (["addr", "add", address, "dev", device], ["link", "set", device, "mtu", "60000", "up"]):
        subprocess.run(["ip", *words], check=True)
    return end


def main():
    device, delay = sys.argv[1], float(sys.argv[2]) / 1000
    ends = [make_end(device, sys.argv[i], sys.argv[i + 1]) for i in (3, 5)]
    print("up", flush=True)
    under_way = collections.deque()  # (when it comes out, where, packet), in order: all take equally long
    while True:
        wait = max(0, under_way[0][0] - time.monotonic()) if under_way else None
        ready, _, _ = select.select([*ends, sys.stdin], [], [], wait)
        if sys.stdin in ready:
            return
        for end in ready:
            under_way.append((time.monotonic() + delay, ends[1 - ends.index(end)], os.read(end, LONGEST)))
        while under_way and under_way[0][0] <= time.monotonic():
            _, end, packet = under_way.popleft()
            os.write(end, packet)


if __name__ == "__main__":
    main()
