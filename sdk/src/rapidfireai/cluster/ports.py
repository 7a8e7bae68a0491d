"""Ports on loopback: which are free, and who has the others."""

from __future__ import annotations

import socket
from collections.abc import Callable

import psutil

from rapidfireai.errors import RapidFireError

ADDRESS = "127.0.0.1"


class PortError(RapidFireError):
    """No port is left on this machine."""


def free_ports(count: int) -> list[int]:
    """Return `count` different ports that nobody listens on now.

    Raises:
        PortError: If there are none.
    """
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((ADDRESS, 0))
        return [int(each.getsockname()[1]) for each in sockets]
    except OSError as error:
        raise PortError(
            f"no port is free on {ADDRESS}: end programs that hold ports (`ss -ltnp` lists them) or widen "
            "net.ipv4.ip_local_port_range"
        ) from error
    finally:
        for each in sockets:
            each.close()


def is_free(port: int) -> bool:
    """Say whether a server could listen on the port now, as one that restarts does."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError:
            return False
    return True


def owner_of(port: int) -> psutil.Process | None:
    """Return the process that listens on the port, or None if there is none or it is another user's."""
    for connection in psutil.net_connections("tcp"):
        listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
        if listens and connection.pid:
            try:
                return psutil.Process(connection.pid)
            except psutil.NoSuchProcess:
                return None
    return None


def choose(preferred: int, ours: Callable[[psutil.Process], bool] = lambda process: False) -> int:
    """Return the preferred port if it is free, else any free one.

    Args:
        preferred: The port that people expect.
        ours: Says whether whoever has the port will give it up.

    Raises:
        PortError: If there is none.
    """
    if is_free(preferred):
        return preferred
    owner = owner_of(preferred)
    return preferred if owner and ours(owner) else free_ports(1)[0]
