"""The cluster's directory: one command at a time, and unusable ones are named."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rapidfireai.cluster.home import HOME_ENV, HomeError, default_home, exclusive

HOLDER = """
import sys
from pathlib import Path
from rapidfireai.cluster.home import exclusive
with exclusive(Path(sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.read()
"""


def silent(line: str) -> None:
    """Report nothing."""


def test_the_second_command_says_that_it_waits_and_then_goes_on(tmp_path: Path) -> None:
    home = tmp_path / "home"
    command = [sys.executable, "-c", HOLDER, str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        told: list[str] = []
        waits, entered = threading.Event(), threading.Event()

        def second() -> None:
            with exclusive(home, lambda line: (told.append(line), waits.set())):
                entered.set()

        thread = threading.Thread(target=second, daemon=True)
        thread.start()
        assert waits.wait(10)
        assert not entered.is_set()
        first.stdin.close()
        assert entered.wait(10)
        thread.join(10)
    assert told == ["another command is starting or stopping this cluster; waiting for it"]


def test_a_command_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        first.kill()
    with exclusive(tmp_path, pytest.fail):
        pass


def test_whoever_waited_for_a_purge_holds_the_new_lock_not_the_removed_one(tmp_path: Path) -> None:
    home = tmp_path / "home"
    waits, entered, leave = threading.Event(), threading.Event(), threading.Event()

    def second() -> None:
        with exclusive(home, lambda line: waits.set()):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=second, daemon=True)
    with exclusive(home, silent):
        thread.start()
        assert waits.wait(10)
        (home / "lock").unlink()
    assert entered.wait(10)
    third = threading.Event()
    threading.Thread(target=lambda: [exclusive(home, lambda line: third.set()).__enter__()], daemon=True).start()
    assert third.wait(10), "the lock that the second one holds is not the one that the third one meets"
    leave.set()
    thread.join(10)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(HomeError, match=rf"{tmp_path}/file/home: Not a directory; name another directory in {HOME_ENV}"),
        exclusive(tmp_path / "file" / "home", silent),
    ):
        pass


def test_the_directory_is_the_users_unless_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(HOME_ENV, raising=False)
    assert default_home() == Path.home() / ".rapidfireai"
    monkeypatch.setenv(HOME_ENV, str(tmp_path))
    assert default_home() == tmp_path
