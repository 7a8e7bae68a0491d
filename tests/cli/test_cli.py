"""What people see when they mistype, forget, or look around."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
HEAVY = ("cryptography", "httpx", "kubernetes", "matplotlib", "pandas", "plotext", "psutil", "pydantic", "torch")


def test_help_lists_the_commands_and_is_quick_to_import(run: Run) -> None:
    answer = run("--help")
    assert answer.returncode == 0
    for command in ("get", "describe", "logs", "plot", "export", "start", "stop", "status", "doctor", "kubectl", "env"):
        assert f" {command} " in answer.stdout
    script = f"import sys, rapidfireai.cli.main; print([name for name in {HEAVY} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_version_names_every_package(run: Run) -> None:
    answer = run("version")
    assert [line.split()[0] for line in answer.stdout.splitlines()] == [
        "rapidfireai",
        "rapidfireai-operator",
        "rapidfireai-worker",
        "python",
    ]


@pytest.mark.parametrize("words", [("env",), ("kubectl", "get", "pods"), ("helm", "list")])
def test_without_a_cluster_the_way_to_one_is_said(run: Run, home: Path, words: tuple[str, ...]) -> None:
    answer = run(*words)
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr == f"error: there is no local cluster in {home}: run `rapidfireai start`\n"


def test_status_without_a_cluster(run: Run, home: Path) -> None:
    answer = run("status")
    assert (answer.returncode, answer.stdout) == (1, f"no cluster in {home}: run `rapidfireai start`\n")


def test_stopping_what_was_never_started_is_fine(run: Run, home: Path) -> None:
    assert run("stop").returncode == 0
    assert run("stop", "--purge").returncode == 0
    assert not home.exists()


def test_a_prebuilt_binary_that_is_not_there_is_named(run: Run, tmp_path: Path) -> None:
    answer = run("start", "--kubelocal", str(tmp_path / "missing"))
    assert answer.returncode == 1
    assert f"{tmp_path / 'missing'}: not an executable file" in answer.stderr


def test_missing_go_gets_the_fix(run: Run, tmp_path: Path) -> None:
    answer = run("start", XDG_CACHE_HOME=str(tmp_path / "cache"), PATH=str(tmp_path))
    assert answer.returncode == 1
    assert "is not on PATH: install it" in answer.stderr


def test_a_home_that_cannot_be_used_is_named(run: Run, home: Path) -> None:
    home.touch()
    answer = run("start")
    assert answer.returncode == 1
    assert f"error: {home}: " in answer.stderr
    assert "name another directory in RAPIDFIREAI_HOME" in answer.stderr


@pytest.mark.parametrize("option", ["--kubeconfig", "--values"])
def test_a_file_that_is_not_there_is_a_mistake_of_the_option(run: Run, tmp_path: Path, option: str) -> None:
    answer = run("start", option, str(tmp_path / "missing.yaml"))
    assert answer.returncode == 2
    assert option in answer.stderr
    assert "does not exist" in answer.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("get", "rfrun", "-o", "yaml"),
        ("-n", "team-a", "exec", "pod", "--", "ls", "-l"),
        ("--help",),
        ("patch", "rfrun", "r", "--type=merge", "-p", '{"spec":{"desiredState":"Stopped"}}'),
        (),
    ],
)
def test_every_word_reaches_kubectl_unchanged(run: Run, home: Path, pretended: Path, words: tuple[str, ...]) -> None:
    answer = run("kubectl", *words)
    first, *rest = answer.stdout.splitlines()
    assert first.endswith(f"KUBECONFIG={home}/control-plane/pki/admin.kubeconfig")
    assert rest == ["[kubectl]", *(f"[{word}]" for word in words)]
    assert answer.returncode == 7


def test_env_makes_plain_kubectl_work_and_can_be_said_twice(run: Run, home: Path, pretended: Path) -> None:
    answer = run("env")
    programs = home / "bin"
    programs.mkdir()
    (programs / "kubectl").symlink_to(pretended)
    script = f'{answer.stdout}{answer.stdout}echo "$PATH"; kubectl get pods'
    shell = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False)
    path, kubectl, *words = shell.stdout.splitlines()
    assert path.split(":").count(str(programs)) == 1
    assert kubectl == f"{programs}/kubectl KUBECONFIG={home}/control-plane/pki/admin.kubeconfig"
    assert words == ["[get]", "[pods]"]


def test_doctor_finds_nothing_wrong_with_a_sound_machine_and_keeps_secrets(run: Run, kubelocal: Path) -> None:
    answer = run("doctor", HF_TOKEN="hf_verysecret")
    assert answer.returncode == 0, answer.stdout
    assert "hf_verysecret" not in answer.stdout + answer.stderr
    assert "a token is set" in answer.stdout
    for topic in ("python", "torch", "control plane", "gpu", "disk", "memory", "port 8852", "cluster"):
        assert topic in answer.stdout


def test_doctor_names_the_process_on_a_port(run: Run, home: Path, pretended: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = f'{{"kubelocal": "{pretended}", "mlflow_port": {port}, "volume_port": 2}}'
        (home / "settings.json").write_text(settings)
        answer = run("doctor")
    line = next(line for line in answer.stdout.splitlines() if f"port {port}" in line)
    assert f"taken by {psutil.Process().cmdline()[0]}" in line
    assert "finds MLflow another port" in answer.stdout


def test_doctor_calls_missing_go_a_problem(run: Run, tmp_path: Path) -> None:
    answer = run("doctor", XDG_CACHE_HOME=str(tmp_path), PATH=str(tmp_path))
    assert answer.returncode == 1
    assert "Go 1.26 or newer builds the control plane and is not on PATH" in answer.stdout
    assert answer.stdout.splitlines()[-1] == "1 problem"
