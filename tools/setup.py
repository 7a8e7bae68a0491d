"""Make the development environment: `.venv` with pinned packages, and the local cluster's binary beside it.

Runs with the standard library alone, on any Python from 3.11, and skips what is already there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements" / "dev.txt"
STAMP = VENV / ".installed"
PACKAGES = ("sdk", "operator", "worker")
UV_VERSION = "0.13.9"
BINARY_SCRIPT = ROOT / "sdk" / "src" / "rapidfireai" / "cluster" / "binary.py"


def fingerprint() -> str:
    """Return a digest of everything that the environment is made from."""
    sources = [LOCK, *(ROOT / part / "pyproject.toml" for part in PACKAGES)]
    digest = hashlib.sha256(str(ROOT).encode())
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()


def find_uv() -> str:
    """Return a uv program, installed into a folder of its own where the machine has none."""
    found = shutil.which("uv")
    if found:
        return found
    home = ROOT / ".cache" / "uv"
    program = home / "bin" / "uv"
    if not program.exists():
        print(f"  uv {UV_VERSION} (25 MB) ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run(
            [str(home / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", f"uv=={UV_VERSION}"],
            check=True,
        )
    return str(program)


def install_packages() -> None:
    """Create `.venv` with exactly the locked versions, then our three packages, editable."""
    uv = find_uv()
    started = time.monotonic()
    print("  Python packages (2.5 GB to download, 6 GB on disk; 1 to 5 minutes) ...", flush=True)
    STAMP.unlink(missing_ok=True)
    if not (VENV / "bin" / "python").exists():
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(VENV)], check=True)
    target = ["--python", str(VENV / "bin" / "python")]
    quiet = [] if sys.stderr.isatty() else ["-q"]
    subprocess.run([uv, "pip", "install", *quiet, *target, "--require-hashes", "-r", str(LOCK)], check=True)
    editable = [word for part in PACKAGES for word in ("-e", str(ROOT / part))]
    subprocess.run([uv, "pip", "install", "-q", *target, "--no-deps", *editable], check=True)
    STAMP.write_text(fingerprint())
    print(f"  Python packages installed in {time.monotonic() - started:.0f} s", flush=True)


def main() -> int:
    """Set everything up and return the exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036 - the person may run this with any Python
        print(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: make PYTHON=python3.11 setup")
        return 1
    # The compiler needs cores and the package manager needs the network, so they run side by side.
    binary = subprocess.Popen([sys.executable, str(BINARY_SCRIPT), "--quiet-if-present"], env=os.environ)
    try:
        if not STAMP.exists() or STAMP.read_text() != fingerprint():
            print("Setting up (once):", flush=True)
            install_packages()
    except subprocess.CalledProcessError as failure:
        binary.terminate()
        print(f"Setting up failed: {' '.join(map(str, failure.cmd[:4]))} ... exited with {failure.returncode}")
        return 1
    return binary.wait()


if __name__ == "__main__":
    sys.exit(main())
