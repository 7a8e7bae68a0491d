"""SFT: teach SmolLM2 trivia with four configs side by side, chunk by chunk.

Two LoRA settings and two learning rates make four runs. They share two workers, which hold the base model once each and
swap the runs at every quarter of the data: after the first quarter all four have a loss that compares. Run
`rapidfireai start` first.
"""

# %%
from typing import Any

import smollm2
from datasets import Dataset

from rapidfireai import Experiment
from rapidfireai.automl import List, RFGridSearch, RFLoraConfig, RFModelConfig, RFSFTConfig

# %% [markdown]
# ## Model and data
#
# SmolLM2-135M and 192 trivia questions come out of Python packages; a model's name on the hub and any `Dataset` do as
# well.

# %%
experiment = Experiment(experiment_name="sft-smollm2", mode="fit")
demo = smollm2.prepare(experiment.workspace.mount_path)
train_rows, eval_rows = smollm2.trivia()
train_dataset, eval_dataset = Dataset.from_list(train_rows), Dataset.from_list(eval_rows)


# %% [markdown]
# A question and its answer are the two turns of a chat. Functions like these are sent to the workers and run there.


# %%
def formatting_function(row: dict[str, str]) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": row["question"]}],
        "completion": [{"role": "assistant", "content": row["answer"]}],
    }


def compute_metrics(eval_preds: tuple[list[str], list[str]]) -> dict[str, float]:
    """Return which share of the right answers' words the model says: it generates at every evaluation."""
    shares = []
    for said, right in zip(*eval_preds, strict=True):
        words = set(right.lower().strip(".").split())
        shares.append(len(words & set(said.lower().replace(".", " ").split())) / len(words))
    return {"said": sum(shares) / len(shares)}


def create_model(model_config: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = model_config["model_name"]
    model = AutoModelForCausalLM.from_pretrained(name, **model_config["model_kwargs"])
    return model, AutoTokenizer.from_pretrained(name)


# %% [markdown]
# ## Configs
#
# `List` is a knob. A grid makes every combination of all knobs: two adapters and two learning rates are four runs.

# %%
adapters = List(
    [
        RFLoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]),
        RFLoraConfig(r=32, lora_alpha=64, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]),
    ]
)
config = RFModelConfig(
    model_name=str(demo.model),
    model_kwargs={"torch_dtype": "float32"},
    peft_config=adapters,
    training_args=RFSFTConfig(
        learning_rate=List([1e-4, 1e-3]),
        per_device_train_batch_size=4,
        num_train_epochs=1,
        max_length=128,
        logging_steps=2,
        gradient_checkpointing=False,
    ),
    formatting_func=formatting_function,
    compute_metrics=compute_metrics,
    generation_config={"max_new_tokens": 16, "do_sample": False},
)
config_group = RFGridSearch(configs=config, trainer_type="SFT")

# %% [markdown]
# ## Train
#
# Four chunks: the runs are compared four times. The call returns when every run has ended; until then it shows them.

# %%
print(smollm2.hints(experiment))
experiment.run_fit(config_group, create_model, train_dataset, eval_dataset, num_chunks=4, seed=42, num_workers=2)

# %% [markdown]
# ## Compare
#
# One column a run, one line a chunk: the loss on questions that no run is trained on, and which share of the right
# words is said. A run that is far behind after the first lines can be stopped there, and the others get its time.

# %%
results = experiment.get_results()
curves = {
    metric: results.pivot_table(index="step", columns="run_id", values=f"boundary/{metric}")
    for metric in ("eval_loss", "said")
}
for metric, curve in curves.items():
    print(f"{metric}\n{curve.round(3).to_string()}")

# %% [markdown]
# ## Ask the best one
#
# A question that no run was trained on, to the base model and to the best run's adapter.

# %%
best = int(curves["eval_loss"].iloc[-1].idxmin())
adapter = experiment.export(best, experiment.experiments_path / experiment.name / f"run-{best}")
question = "What has a gravitational pull so strong that even light cannot escape it?"
print(question)
print(f"  base model: {smollm2.answer(demo.model, question)}")
print(f"  run {best}:      {smollm2.answer(demo.model, question, adapter)}")
print(f"The adapter of run {best}: {adapter.resolve()}")
print(f"All curves in MLflow: {experiment.workspace.mlflow_url}")

# %%
experiment.end()
