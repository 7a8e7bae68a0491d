"""Ports: the usual one while it is free, another one otherwise, a sentence if there is none."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import psutil
import pytest

from rapidfireai.cluster import ports
from rapidfireai.cluster.ports import PortError


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as server:
        server.bind((ports.ADDRESS, 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_free_port_is_kept(taken: int) -> None:
    (free,) = ports.free_ports(1)
    assert ports.choose(free) == free


def test_a_taken_port_is_replaced_and_its_owner_known(taken: int) -> None:
    assert not ports.is_free(taken)
    owner = ports.owner_of(taken)
    assert owner is not None
    assert owner.pid == os.getpid()
    chosen = ports.choose(taken)
    assert chosen != taken
    assert ports.is_free(chosen)


def test_a_port_that_its_owner_will_give_up_is_kept(taken: int) -> None:
    assert ports.choose(taken, ours=lambda process: process == psutil.Process()) == taken


def test_no_free_port_is_an_error_with_the_fix(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(self: socket.socket, address: object) -> None:
        raise OSError(errno.EADDRINUSE, "Address already in use")

    monkeypatch.setattr(socket.socket, "bind", exhausted)
    with pytest.raises(PortError, match=r"no port is free on 127\.0\.0\.1: end programs that hold ports"):
        ports.choose(taken)
