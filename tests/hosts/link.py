#!/usr/bin/env python3
"""A slow line: passes frames between two interfaces with delay, rate and loss, as `tc netem` would where a kernel has it.

    link.py IFACE IFACE --delay MS --rate MBIT --loss PCT        (delay, rate and loss of each direction)
"""
import argparse
import collections
import random
import select
import socket
import time

PACKET_OUTGOING = 4
ETH_P_ALL = 3


def port(name):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
    s.bind((name, 0))
    s.setblocking(False)
    return s


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("ports", nargs=2)
    parser.add_argument("--delay", type=float, default=0)
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--loss", type=float, default=0)
    arguments = parser.parse_args()
    ports = [port(name) for name in arguments.ports]
    queues = [collections.deque(), collections.deque()]
    free = [0.0, 0.0]
    delay, per_byte = arguments.delay / 1000, 8 / (arguments.rate * 1e6) if arguments.rate else 0
    # As a router's: what does not fit is dropped, and TCP slows down.
    longest = max(0.2, 2 * delay)
    while True:
        due = min((q[0][0] for q in queues if q), default=None)
        timeout = None if due is None else max(0, due - time.monotonic())
        readable, _, _ = select.select(ports, [], [], timeout)
        now = time.monotonic()
        for at, source in enumerate(ports):
            if source in readable:
                for _ in range(256):
                    try:
                        frame, address = source.recvfrom(65535)
                    except BlockingIOError:
                        break
                    if address[2] == PACKET_OUTGOING or arguments.loss and random.random() * 100 < arguments.loss:
                        continue
                    start = max(now, free[at])
                    if start - now > longest:
                        continue
                    free[at] = start + len(frame) * per_byte
                    queues[at].append((free[at] + delay, frame))
        now = time.monotonic()
        for at, queue in enumerate(queues):
            while queue and queue[0][0] <= now:
                try:
                    ports[1 - at].send(queue.popleft()[1])
                except OSError:
                    # The interface is down, as the network of a host that lost it: the frame is lost with it.
                    pass


if __name__ == "__main__":
    main()
