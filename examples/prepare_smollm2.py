"""Put SmolLM2 and the trivia questions on the cluster's volume, for the manifests beside this file.

In local mode the volume is a directory of this machine; on another cluster run this in a pod that mounts the claim.
"""

from __future__ import annotations

import sys

import smollm2

from rapidfireai.connection import Connection
from rapidfireai.errors import RapidFireError


def main() -> None:
    files = smollm2.prepare(Connection().workspace().mount_path)
    print(f"model: {files.model}\nrows:  {files.train}, {files.eval.name}, {files.few.name}")
    print("Now: rapidfireai kubectl apply -f examples/sft-smollm2.yaml (or dpo-smollm2.yaml, grpo-smollm2.yaml)")


if __name__ == "__main__":
    try:
        main()
    except RapidFireError as error:
        sys.exit(f"error: {error}")
