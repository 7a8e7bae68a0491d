"""One pipeline as a plain vLLM program, as people run pipelines one after another: it knows nothing of this project.

`python plain_eval.py SPEC.json` answers every row with the model that SPEC names and prints one line of JSON: when it
had answered each quarter of the rows, and how many answers were right.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main() -> None:
    """Answer the rows, and print `answered` (seconds since the epoch) and `right`."""
    from vllm import LLM, SamplingParams  # noqa: PLC0415 - importing is part of what is measured

    spec = json.loads(Path(sys.argv[1]).read_text())
    rows = [json.loads(line) for line in Path(spec["rows"]).read_text().splitlines()]
    engine = LLM(**spec["model_config"])
    sampling = SamplingParams(**spec["sampling_params"])
    shard = -(-len(rows) // spec["shards"])
    answered, right = [], 0
    for first in range(0, len(rows), shard):
        part = rows[first : first + shard]
        chats = [[{"role": "user", "content": spec["prompt"].format(**row)}] for row in part]
        made = engine.chat(chats, sampling, use_tqdm=False)
        right += sum(
            row["answer"].lower() in each.outputs[0].text.lower() for row, each in zip(part, made, strict=True)
        )
        answered.append(time.time())
    print(json.dumps({"answered": answered, "right": right}))


if __name__ == "__main__":
    main()
