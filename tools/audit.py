"""Say what the images hold, and what of it is known to be vulnerable.

python tools/audit.py sbom               a CycloneDX file beside each archive that tools/images.py wrote
python tools/audit.py vulnerabilities    asks the public database about every version in the images' lock files
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from image_parts import PARTS, ROOT, WORKER_TARGETS, part
from image_store import mounted
from setup import find_uv

TOOLS = ROOT / ".cache" / "audit"
LOCK = ROOT / "requirements" / "audit.txt"
IMAGES = ROOT / ".cache" / "images"
SHIPPED = ("operator", "mlflow", "worker-cpu", "worker-cuda")


def _program(name: str) -> str:
    """Return a program of the audit's own environment, which is made anew when its lock file has changed."""
    stamp = TOOLS / ".installed"
    if not stamp.exists() or stamp.read_text() != LOCK.read_text():
        uv = find_uv()
        subprocess.run([uv, "venv", "-q", "--clear", "--python", sys.executable, str(TOOLS)], check=True)
        target = ["--python", str(TOOLS / "bin" / "python")]
        subprocess.run([uv, "pip", "sync", "-q", *target, "--require-hashes", str(LOCK)], check=True)
        stamp.write_text(LOCK.read_text())
    return str(TOOLS / "bin" / name)


def sbom(archive: Path, image: str) -> Path:
    """Write the bill of materials of the Python packages that are installed in an image; return its path.

    Debian's packages are in the image's own /var/lib/dpkg/status, which scanners of images read.
    """
    output = archive.with_suffix(".cdx.json")
    with tempfile.TemporaryDirectory(prefix="rapidfireai-sbom-") as folder, mounted(image, archive) as root:
        # The image's environment without its code: what is installed is told by these directories alone.
        environment = Path(folder) / "environment"
        subprocess.run([find_uv(), "venv", "-q", "--python", sys.executable, str(environment)], check=True)
        packages = next(environment.glob("lib/python3*/site-packages"))
        for described in root.glob("opt/rapidfireai/lib/python3*/site-packages/*.dist-info"):
            shutil.copytree(described, packages / described.name)
        # Validating costs ten times as much as writing; the tests read what is written.
        words = [_program("cyclonedx-py"), "environment", "--output-reproducible", "--no-validate"]
        words += ["--output-format", "JSON", "--output-file", str(output), str(environment / "bin" / "python")]
        subprocess.run(words, check=True, capture_output=True)
    return output


def vulnerabilities(locks: list[str], service: str) -> int:
    """Ask about every version in the lock files; return 1 if something is known of one, or one cannot be looked up."""
    worst = 0
    for name in locks:
        print(f"requirements/{name}.txt:", flush=True)
        lock = ROOT / "requirements" / f"{name}.txt"
        words = [_program("pip-audit"), "--strict", "--disable-pip", "--require-hashes", "--progress-spinner", "off"]
        words += ["--vulnerability-service", service, "--requirement", str(lock)]
        worst = max(worst, subprocess.run(words, check=False).returncode)
    return worst


def main() -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    bills = commands.add_parser("sbom", help="write a CycloneDX file beside each archive")
    bills.add_argument("--images", type=Path, default=IMAGES, help="where the archives are (.cache/images)")
    asked = commands.add_parser("vulnerabilities", help="ask about the versions in the lock files")
    asked.add_argument("locks", nargs="*", default=SHIPPED, help=f"some of {', '.join(SHIPPED)}")
    asked.add_argument("--service", choices=("pypi", "osv"), default="pypi", help="the database that is asked (pypi)")
    arguments = parser.parse_args()
    if arguments.command == "vulnerabilities":
        return vulnerabilities(list(arguments.locks), arguments.service)
    for name in PARTS:
        archive = arguments.images / f"{name}.tar"
        if not archive.exists():
            print(f"{archive} is not there: make images", file=sys.stderr)
            return 1
        print(f"  {sbom(archive, part(name, WORKER_TARGETS[0]).image)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
