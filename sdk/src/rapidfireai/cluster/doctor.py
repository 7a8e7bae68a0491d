"""What may keep experiments from running on this machine, each with what to do about it."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil
import pynvml
from huggingface_hub import get_token

from rapidfireai.cluster import ports
from rapidfireai.cluster.binary import BinaryError, cached_binary, find_go, named_binary
from rapidfireai.cluster.local import ClusterStatus, LocalCluster

Level = Literal["ok", "note", "problem"]
PACKAGES = (
    "rapidfireai",
    "rapidfireai-operator",
    "rapidfireai-worker",
    "torch",
    "transformers",
    "trl",
    "peft",
    "mlflow",
)
_GIB = 2**30
_DISK_NEEDED = 2 * _GIB
_DISK_WISHED = 20 * _GIB
_MEMORY_WISHED = 6 * _GIB


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: `problem` keeps experiments from running; a `note` is good to know.
        fix: What to do, for a problem or a note.
    """

    topic: str
    level: Level
    text: str
    fix: str = ""


def examine(cluster: LocalCluster) -> Iterator[Finding]:
    """Yield a finding for everything that matters, as each is found out."""
    yield from _versions()
    yield _numa()
    yield _binary()
    yield from _gpus()
    yield from _machine(cluster.home)
    status = cluster.status()
    yield from _ports(cluster, status)
    yield from _cluster(cluster, status)
    yield _hugging_face()


def _versions() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")
    for package in PACKAGES:
        try:
            yield Finding(package, "ok", metadata.version(package))
        except metadata.PackageNotFoundError:
            yield Finding(package, "problem", "not installed", "pip install 'rapidfireai[local]'")


def _numa() -> Finding:
    library = "libnuma.so.1"
    try:
        ctypes.CDLL(library)
    except OSError:
        return Finding("vllm", "note", f"{library} is missing: vLLM does not start on CPUs", "apt-get install libnuma1")
    return Finding("vllm", "ok", f"finds {library}, which it needs on CPUs")


def _binary() -> Finding:
    topic = "control plane"
    try:
        named = named_binary()
        if named or cached_binary().exists():
            return Finding(topic, "ok", str(named or cached_binary()))
        return Finding(
            topic, "note", f"not built yet, {find_go()} will build it", "`rapidfireai start` takes 10 minutes once"
        )
    except BinaryError as error:
        return Finding(topic, "problem", str(error))


def _gpus() -> Iterator[Finding]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        yield Finding("gpu", "note", f"none ({error}): runs train on the CPU")
        return
    try:
        count = pynvml.nvmlDeviceGetCount()
        driver = pynvml.nvmlSystemGetDriverVersion()
        for index in range(count):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            text = f"{pynvml.nvmlDeviceGetName(handle)}, {memory.free / _GIB:.0f} of {memory.total / _GIB:.0f} GiB free"
            yield Finding(f"gpu {index}", "ok", f"{text}, driver {driver}")
    finally:
        pynvml.nvmlShutdown()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        yield Finding("gpu", "note", f"CUDA_VISIBLE_DEVICES={visible!r}: only these are used", "unset it to use all")


def _machine(home: Path) -> Iterator[Finding]:
    there = next(each for each in (home, *home.parents) if each.exists())
    free = shutil.disk_usage(there).free
    level: Level = "problem" if free < _DISK_NEEDED else "note" if free < _DISK_WISHED else "ok"
    fix = "" if level == "ok" else "checkpoints need room: free some, or name another disk in RAPIDFIREAI_HOME"
    yield Finding("disk", level, f"{free / _GIB:.1f} GiB free for {home}", fix)
    memory = psutil.virtual_memory()
    short = memory.available < _MEMORY_WISHED
    text = f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB available, {os.cpu_count()} cores"
    yield Finding("memory", "note" if short else "ok", text, "a worker with a small model needs 4 GiB" if short else "")


def _ports(cluster: LocalCluster, status: ClusterStatus) -> Iterator[Finding]:
    for name, url in (("MLflow", status.mlflow_url), ("the volume service", status.volume_url)):
        port = int(url.rsplit(":", 1)[1])
        topic = f"port {port}"
        if ports.is_free(port):
            yield Finding(topic, "ok", f"free, for {name}")
            continue
        owner = ports.owner_of(port)
        who = f"{' '.join(owner.cmdline())[:80]} (pid {owner.pid})" if owner else "another user's process"
        if owner and cluster.owns(owner):
            yield Finding(topic, "ok", f"{name}, pid {owner.pid}")
        else:
            yield Finding(topic, "note", f"taken by {who}", f"`rapidfireai start` finds {name} another port")


def _cluster(cluster: LocalCluster, status: ClusterStatus) -> Iterator[Finding]:
    if status.server is None:
        yield Finding("cluster", "note", f"none in {cluster.home}", "`rapidfireai start` makes one")
        return
    if not any(status.processes.values()):
        yield Finding("cluster", "note", f"stopped, its state is in {cluster.home}", "`rapidfireai start` goes on")
        return
    for name, runs in status.processes.items():
        if not runs:
            log = cluster.log_of(name)
            yield Finding(name, "problem", f"not running; its log is {log}", "`rapidfireai start` starts it again")
    yield from _node(cluster, status)
    for part in status.parts:
        level: Level = "ok" if part.ready else "note" if part.component == "mlflow" else "problem"
        fix = f"rapidfireai kubectl -n {part.namespace} logs deployment/{part.name}"
        yield Finding(part.component, level, "ready" if part.ready else part.reason, "" if part.ready else fix)


def _node(cluster: LocalCluster, status: ClusterStatus) -> Iterator[Finding]:
    answer = cluster.kubectl("get", "nodes", "--output", "json", "--request-timeout=10s")
    if answer.returncode != 0:
        text = f"{status.server} does not answer: {answer.stderr.strip()}"
        yield Finding("API server", "problem", text, "`rapidfireai stop`, then `rapidfireai start`")
        return
    for node in json.loads(answer.stdout)["items"]:
        conditions = {each["type"]: each for each in node["status"].get("conditions", [])}
        ready = conditions.get("Ready", {"status": "Unknown", "message": "it has not reported yet"})
        capacity = ", ".join(f"{key} {value}" for key, value in sorted(node["status"].get("capacity", {}).items()))
        text = capacity if ready["status"] == "True" else ready.get("message", "")
        yield Finding("node", "ok" if ready["status"] == "True" else "problem", text)


def _hugging_face() -> Finding:
    topic = "Hugging Face"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        return Finding(
            topic, "note", "HF_HUB_OFFLINE is set: only models and data of this machine", "unset it for the hub"
        )
    if get_token() is None:
        return Finding(topic, "note", "not logged in: public models work, gated ones do not", "`hf auth login`")
    return Finding(topic, "ok", "a token is set")
