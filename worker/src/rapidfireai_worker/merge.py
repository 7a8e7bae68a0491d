"""`python -m rapidfireai_worker.merge ADAPTER TARGET`: an adapter and its base -> one model.

Run on the user's machine by `rapidfireai export --merge`; on failure the last line of stderr says why.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


class MergeError(Exception):
    """The adapter cannot be merged here; the message says why and what to do."""


def merge(adapter: Path, target: Path, dtype: str) -> None:
    """Write the base model with the adapter merged into its weights, and the tokenizer.

    Args:
        adapter: The adapter's folder; its `adapter_config.json` names the base.
        target: A folder that is made.
        dtype: How the base's weights are loaded and the merged ones written, such as float32, or auto.

    Raises:
        MergeError: If the base cannot be loaded, or is not the adapter's.
    """
    base = json.loads((adapter / "adapter_config.json").read_text()).get("base_model_name_or_path") or ""
    if not base:
        raise MergeError("the adapter does not name its base model; export it as it is and merge it with peft")
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise MergeError(
            f"its base model lies at {base} on the cluster and not on this machine; export the adapter as it is and "
            "merge it with peft into your own copy"
        )
    # Only now: who merges where the base is not hears of it at once.
    import torch  # noqa: PLC0415
    from peft import PeftModel  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    try:
        loaded = AutoModelForCausalLM.from_pretrained(base, dtype="auto" if dtype == "auto" else getattr(torch, dtype))
    except (OSError, ValueError, AttributeError) as error:
        raise MergeError(f"its base model {base} cannot be loaded: {error}") from error
    try:
        merged = PeftModel.from_pretrained(loaded, str(adapter)).merge_and_unload(safe_merge=True)
    except (RuntimeError, ValueError) as error:
        raise MergeError(f"the adapter does not fit {base}: {error}") from error
    merged.save_pretrained(target)
    AutoTokenizer.from_pretrained(adapter).save_pretrained(target)


def main(words: list[str]) -> int:
    """Merge as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="rapidfireai_worker.merge", description=merge.__doc__)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--dtype", default="auto")
    given = parser.parse_args(words)
    try:
        merge(given.adapter, given.target, given.dtype)
    except MergeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
