"""Uploads that broke off go on where they stopped, whoever else sends the same."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from rapidfireai.errors import VolumeError
from rapidfireai.volume import VolumeClient
from rapidfireai_worker.layout import Volume
from rapidfireai_worker.volume.store import TooLarge, Upload, WrongDigest, WrongOffset, received

if TYPE_CHECKING:
    from conftest import NewWorkspace, Process, Workspace

DATA = os.urandom(9_000_000)
DIGEST = hashlib.sha256(DATA).hexdigest()
LIMIT = 1 << 30


@pytest.fixture(scope="module")
def workspace(new_workspace: NewWorkspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with new_workspace(tmp_path_factory.mktemp("workspace")) as made:
        yield made


@pytest.fixture
def user(service: Process, token: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=f"http://{service.address}", headers=headers, trust_env=False, timeout=30) as http:
        yield http


class Breaking:
    """A way to the service that breaks off after some bytes of each connection, a given number of times."""

    def __init__(self, address: str, allowed: list[int]) -> None:
        host, port = address.split(":")
        self._target = (host, int(port))
        self._allowed = allowed
        self.sent: list[int] = []
        """The bytes of each upload, in the order in which they began."""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        server = socket.create_connection(self._target)
        threading.Thread(target=self._answer, args=(server, client), daemon=True).start()
        upload, limit = -1, LIMIT
        try:
            while block := client.recv(1 << 16):
                if upload < 0 and block.startswith(b"PUT "):
                    upload, limit = len(self.sent), (self._allowed.pop(0) if self._allowed else LIMIT)
                    self.sent.append(0)
                if upload >= 0:
                    self.sent[upload] += len(block)
                server.sendall(block)
                if upload >= 0 and self.sent[upload] > limit:
                    break
        except OSError:
            pass  # the other side is gone: so is this one, below
        for each in (server, client):
            with suppress(OSError):  # closed already
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    @staticmethod
    def _answer(server: socket.socket, client: socket.socket) -> None:
        try:
            while block := server.recv(1 << 16):
                client.sendall(block)
        except OSError:
            pass  # closed by the thread that carries the request


def offset(user: httpx.Client, digest: str = DIGEST) -> int:
    answer = user.head(f"/v1/datasets/{digest}")
    assert answer.status_code == 404
    return int(answer.headers["upload-offset"])


@pytest.mark.integration
def test_a_client_sends_only_what_is_missing_after_a_break(
    workspace: Workspace, service: Process, token: str, tmp_path: Path
) -> None:
    (tmp_path / "rows").write_bytes(DATA)
    told: list[tuple[int, int]] = []
    with closing(Breaking(service.address, [3_000_000, 2_000_000])) as way:
        client = VolumeClient(way.url, lambda: token)
        client.put("datasets", DIGEST, tmp_path / "rows", lambda done, total: told.append((done, total)))
        assert client.has("datasets", DIGEST)
        client.put("datasets", DIGEST, tmp_path / "rows")  # nothing is sent any more
        client.close()
        assert len(way.sent) == 3
        assert sum(way.sent) < len(DATA) + 2 * (1 << 20)
    assert Volume(workspace.volume).dataset(DIGEST).read_bytes() == DATA
    assert list(Volume(workspace.volume).uploads.iterdir()) == []
    assert told[-1] == (len(DATA), len(DATA))


@pytest.mark.integration
def test_a_later_call_goes_on_and_finds_out_what_is_damaged(
    workspace: Workspace, service: Process, user: httpx.Client, token: str
) -> None:
    """What lies there may be anything after a power cut: then all of it is sent again."""
    for name, damage in (("good", b""), ("bad", b"?")):
        data = DATA + name.encode()
        digest = hashlib.sha256(data).hexdigest()

        part = Volume(workspace.volume).partial_upload(digest)

        def broken(data: bytes = data, part: Path = part) -> Iterator[bytes]:
            yield data[:1000]
            workspace.wait("upload", lambda: part.exists() and part.stat().st_size)
            raise ConnectionAbortedError

        with pytest.raises(ConnectionAbortedError):
            user.put(f"/v1/datasets/{digest}", content=broken())
        workspace.wait("what came", lambda digest=digest: offset(user, digest) == 1000)
        part.write_bytes(damage + part.read_bytes()[len(damage) :])
        client = VolumeClient(f"http://{service.address}", lambda: token)
        client.put("datasets", digest, data)
        client.close()
        assert Volume(workspace.volume).dataset(digest).read_bytes() == data


@pytest.mark.integration
def test_where_it_goes_on_is_checked(user: httpx.Client) -> None:
    digest = hashlib.sha256(b"something else").hexdigest()
    answer = user.put(f"/v1/datasets/{digest}", content=b"else", headers={"Upload-Offset": "10"})
    assert (answer.status_code, answer.headers["upload-offset"]) == (409, "0")
    assert "ask with HEAD and go on there" in answer.json()["detail"]
    wrong = user.put(f"/v1/datasets/{digest}", content=b"else", headers={"Upload-Offset": "-1"})
    assert (wrong.status_code, "upload-offset=-1" in wrong.json()["detail"]) == (422, True)
    assert offset(user, digest) == 0


@pytest.mark.integration
def test_what_is_refused_is_not_sent_again_and_again(service: Process, token: str) -> None:
    client = VolumeClient(f"http://{service.address}", lambda: token)
    with pytest.raises(VolumeError, match="send them again"):
        client.put("datasets", "0" * 64, b"not what the digest says")
    client.close()


def test_an_upload_goes_on_behind_what_came(tmp_path: Path) -> None:
    volume, data = Volume(tmp_path), b"first and second"
    digest = hashlib.sha256(data).hexdigest()
    first = Upload(volume, digest, LIMIT)
    first.write(data[:9])
    assert received(volume, digest) == 0, "somebody sends it"
    first.close()
    assert received(volume, digest) == 9
    second = Upload(volume, digest, LIMIT, 6)  # what the client knows to be there
    second.write(data[6:])
    second.keep(volume.dataset(digest))
    second.close()
    assert second.bytes == len(data)
    assert volume.dataset(digest).read_bytes() == data
    assert list(volume.uploads.iterdir()) == []


def test_two_that_send_the_same_do_not_mix(tmp_path: Path) -> None:
    volume, data = Volume(tmp_path), b"first and second"
    digest = hashlib.sha256(data).hexdigest()
    uploads = [Upload(volume, digest, LIMIT) for _ in range(2)]
    with pytest.raises(WrongOffset, match="0"):
        Upload(volume, digest, LIMIT, 3)
    for block in (data[:6], data[6:]):
        for upload in uploads:
            upload.write(block)
    for upload in reversed(uploads):
        upload.keep(volume.dataset(digest))
        upload.close()
    assert volume.dataset(digest).read_bytes() == data
    assert list(volume.uploads.iterdir()) == []


def test_what_can_never_become_whole_is_not_kept(tmp_path: Path) -> None:
    volume = Volume(tmp_path)
    long = Upload(volume, "0" * 64, 10)
    with pytest.raises(TooLarge):
        long.write(b"more than ten bytes")
    long.close()
    other = Upload(volume, "0" * 64, LIMIT)
    other.write(b"other")
    with pytest.raises(WrongDigest):
        other.keep(volume.dataset("0" * 64))
    other.close()
    assert list(volume.uploads.iterdir()) == []


def test_no_link_in_the_place_of_an_upload_is_followed(tmp_path: Path) -> None:
    volume, secret = Volume(tmp_path / "volume"), tmp_path / "secret"
    secret.write_text("kept")
    volume.uploads.mkdir(parents=True)
    volume.partial_upload("0" * 64).symlink_to(secret)
    with pytest.raises(OSError, match="symbolic links"):
        Upload(volume, "0" * 64, LIMIT)
    assert secret.read_text() == "kept"
