"""One config as a plain TRL program, the way people run configs one after another: it knows nothing of this project.

`python plain.py SPEC.json` trains what SPEC describes and prints one line of JSON with what took how long.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Train, and print `train` (begin and end), `cpu` (at both and now), `evals` (times and losses) and `peak`."""
    import torch  # noqa: PLC0415 - importing is part of what is measured
    from datasets import load_dataset  # noqa: PLC0415
    from peft import LoraConfig  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed  # noqa: PLC0415
    from trl import SFTConfig, SFTTrainer  # noqa: PLC0415

    spec = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(spec["threads"])
    evals: list[tuple[float, float]] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_evaluate(self, *_: Any, metrics: dict[str, float], **__: Any) -> None:
            evals.append((time.time(), metrics["eval_loss"]))

    gpu = torch.cuda.is_available()
    set_seed(spec["seed"])
    dtype = "auto" if gpu else torch.float32
    model = AutoModelForCausalLM.from_pretrained(spec["model"], dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(spec["model"])
    rows = {name: load_dataset("json", data_files=spec[name], split="train") for name in ("train", "eval")}
    defaults = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "use_cpu": not gpu, "bf16": gpu}
    set_seed(spec["seed"])
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(output_dir=spec["out"], seed=spec["seed"], **defaults, **spec["training_args"]),
        train_dataset=rows["train"],
        eval_dataset=rows["eval"],
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", **spec["peft_params"]),
        callbacks=[Clock()],
    )
    begun = (time.time(), time.process_time())
    trainer.train()
    trained = (time.time(), time.process_time())
    trainer.save_model(spec["out"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = {"train": [begun[0], trained[0]], "cpu": [begun[1], trained[1], time.process_time()]}
    print(json.dumps({**line, "evals": evals, "peak": peak}))


if __name__ == "__main__":
    main()
