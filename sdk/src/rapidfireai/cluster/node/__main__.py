"""`python -m rapidfireai.cluster.node`: the process node in the foreground; SIGTERM or Ctrl-C stops it and its pods."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import signal
import sys
from pathlib import Path

import structlog
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.config import ConfigException

from rapidfireai.cluster.node.agent import Agent
from rapidfireai.cluster.node.api import reason_of
from rapidfireai.cluster.node.credentials import CredentialsError

log = structlog.get_logger()


def parse(words: list[str]) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(prog="python -m rapidfireai.cluster.node", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="directory for records, logs and certificates")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="an administrator's, to get certificates with")
    parser.add_argument("--name", required=True, help="name of the Node")
    return parser.parse_args(words)


async def serve(arguments: argparse.Namespace) -> None:
    """Run the node until a signal comes."""
    stop = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    await Agent(arguments.home.resolve(), arguments.kubeconfig, arguments.name).run(stop)


def main() -> int:
    """Run the node; return the exit code."""
    arguments = parse(sys.argv[1:])
    arguments.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (arguments.home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"error: another node runs with --home {arguments.home}; give each its own", file=sys.stderr)
            return 1
        try:
            asyncio.run(serve(arguments))
        except (CredentialsError, ConfigException, ApiException) as error:
            print(f"error: {reason_of(error)}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
