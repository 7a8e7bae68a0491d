"""The local control plane: unclean ends, strangers' pids, unusable binaries."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest

from rapidfireai.cluster import binary
from rapidfireai.cluster.binary import BinaryError, find_binary
from rapidfireai.cluster.control_plane import COMPONENTS, ControlPlane
from rapidfireai.cluster.processes import BackgroundProcess


@pytest.mark.integration
def test_an_unclean_end_is_recovered_with_everything_kept(kubelocal: Path, tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path / "home", kubelocal)
    try:
        plane.start()
        assert plane.kubectl("create", "namespace", "kept").returncode == 0
        for name in COMPONENTS:
            process = BackgroundProcess(name, plane.home).find()
            assert process is not None
            process.kill()
            process.wait(10)
        plane.start()
        assert plane.kubectl("get", "namespace", "kept").returncode == 0
        assert plane.running() == dict.fromkeys(COMPONENTS, True)
    finally:
        plane.purge()
    assert not plane.home.exists()


def test_the_pid_of_a_stranger_is_never_taken_for_ours(tmp_path: Path) -> None:
    process = BackgroundProcess("etcd", tmp_path)
    (tmp_path / "pid").mkdir()
    stranger = psutil.Process(os.getpid())
    record = {"pid": stranger.pid, "started": stranger.create_time() - 3600}
    (tmp_path / "pid" / "etcd.json").write_text(json.dumps(record))
    assert process.find() is None
    process.stop()
    assert stranger.is_running()


@pytest.mark.parametrize("record", ["", "{}", "[]", '{"pid": "x", "started": 1}', "12"])
def test_a_corrupted_record_means_not_running(tmp_path: Path, record: str) -> None:
    (tmp_path / "pid").mkdir()
    (tmp_path / "pid" / "etcd.json").write_text(record)
    assert BackgroundProcess("etcd", tmp_path).find() is None


def test_a_prebuilt_binary_that_cannot_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(binary.PREBUILT_ENV, str(tmp_path))
    with pytest.raises(BinaryError, match="not an executable file; correct it or unset it"):
        find_binary()


def test_missing_go_gets_a_sentence_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(binary.PREBUILT_ENV, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BinaryError, match=r"Go 1\.26 or newer .* is not on PATH: install it"):
        find_binary(lambda line: None)
