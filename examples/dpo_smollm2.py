"""DPO: teach SmolLM2 to prefer right answers over wrong ones, with four configs side by side.

Two strengths of the preference loss (beta) and two learning rates make four runs. The reference that DPO compares with
is the base model with the adapter switched off: all runs of a worker share it. Run `rapidfireai start` first.
"""

# %%
from typing import Any

import smollm2
from datasets import Dataset

from rapidfireai import Experiment
from rapidfireai.automl import List, RFDPOConfig, RFGridSearch, RFLoraConfig, RFModelConfig

# %% [markdown]
# ## Model and data
#
# Each question comes with its answer and with the answer to another question.

# %%
experiment = Experiment(experiment_name="dpo-smollm2", mode="fit")
demo = smollm2.prepare(experiment.workspace.mount_path)
train_rows, eval_rows = smollm2.trivia()
train_dataset, eval_dataset = Dataset.from_list(train_rows[:48]), Dataset.from_list(eval_rows)


# %% [markdown]
# DPO reads a prompt, the answer that is chosen and the one that is rejected.


# %%
def formatting_function(row: dict[str, str]) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": row["question"]}],
        "chosen": [{"role": "assistant", "content": row["answer"]}],
        "rejected": [{"role": "assistant", "content": row["wrong"]}],
    }


def create_model(model_config: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = model_config["model_name"]
    model = AutoModelForCausalLM.from_pretrained(name, **model_config["model_kwargs"])
    return model, AutoTokenizer.from_pretrained(name)


# %% [markdown]
# ## Configs

# %%
config = RFModelConfig(
    model_name=str(demo.model),
    model_kwargs={"torch_dtype": "float32"},
    peft_config=RFLoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]),
    training_args=RFDPOConfig(
        beta=List([0.1, 0.5]),
        learning_rate=List([5e-5, 5e-4]),
        loss_type="sigmoid",
        max_prompt_length=96,
        max_completion_length=32,
        per_device_train_batch_size=4,
        num_train_epochs=1,
        logging_steps=1,
        gradient_checkpointing=False,
    ),
    formatting_func=formatting_function,
)
config_group = RFGridSearch(configs=config, trainer_type="DPO")

# %% [markdown]
# ## Train

# %%
print(smollm2.hints(experiment))
experiment.run_fit(config_group, create_model, train_dataset, eval_dataset, num_chunks=3, seed=42, num_workers=2)

# %% [markdown]
# ## Compare
#
# How often the right answer is preferred, and by how much (the margin counts in units of beta, so compare margins of
# equal beta). One column a run, one line a chunk.

# %%
results = experiment.get_results()
for metric in ("eval_rewards/accuracies", "eval_rewards/margins"):
    print(metric)
    print(results.pivot_table(index="step", columns="run_id", values=f"boundary/{metric}").round(3).to_string())

# %%
experiment.end()
