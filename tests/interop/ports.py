"""Ports of 127.0.0.1 for servers that have to know theirs before they listen."""

from __future__ import annotations

import socket

_given: set[int] = set()


def free_port() -> int:
    """Return a port on which nobody listens now, and which this function has not returned before."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port
