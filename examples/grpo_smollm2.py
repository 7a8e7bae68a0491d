"""GRPO: teach SmolLM2 to answer in few words, by rewards for what it generates, with two configs side by side.

The model answers each question four times; answers that earn more than the others of their question become more likely.
Two learning rates make two runs. Run `rapidfireai start` first.
"""

# %%
from typing import Any

import smollm2
from datasets import Dataset

from rapidfireai import Experiment
from rapidfireai.automl import List, RFGridSearch, RFGRPOConfig, RFLoraConfig, RFModelConfig

# %% [markdown]
# ## Model and data
#
# Sixteen questions do: every step generates, which takes its time without a GPU.

# %%
experiment = Experiment(experiment_name="grpo-smollm2", mode="fit")
demo = smollm2.prepare(experiment.workspace.mount_path)
train_rows, eval_rows = smollm2.trivia()
train_dataset, eval_dataset = Dataset.from_list(train_rows[:16]), Dataset.from_list(eval_rows[:4])


# %% [markdown]
# ## Rewards
#
# A reward function gets the completions and the rows' other columns, here `answer`, and returns a number for each
# completion. The numbers of several functions are added.


# %%
def formatting_function(row: dict[str, str]) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": row["question"]}], "answer": row["answer"]}


def brevity_reward(completions: list[list[dict[str, str]]], **_: Any) -> list[float]:
    """Give 1 for a single word, and less for every further one."""
    return [1 / max(1, len(completion[0]["content"].split())) for completion in completions]


def correctness_reward(completions: list[list[dict[str, str]]], answer: list[str], **_: Any) -> list[float]:
    """Give 1 if the answer is in the completion."""
    said = [completion[0]["content"].lower() for completion in completions]
    return [float(right.lower().rstrip(".") in words) for words, right in zip(said, answer, strict=True)]


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
    training_args=RFGRPOConfig(
        learning_rate=List([1e-4, 1e-3]),
        num_generations=4,
        max_prompt_length=96,
        max_completion_length=16,
        per_device_train_batch_size=4,
        num_train_epochs=1,
        logging_steps=1,
        gradient_checkpointing=False,
    ),
    formatting_func=formatting_function,
    reward_funcs=[brevity_reward, correctness_reward],
)
config_group = RFGridSearch(configs=config, trainer_type="GRPO")

# %% [markdown]
# ## Train

# %%
print(smollm2.hints(experiment))
experiment.run_fit(config_group, create_model, train_dataset, eval_dataset, num_chunks=4, seed=42, num_workers=2)

# %% [markdown]
# ## Compare
#
# What each run earns on four questions that it is not trained on, and how many tokens its answers have: one column a
# run, one line a chunk. Sixteen steps of four answers show the machinery and no trend yet: raise them with a GPU.

# %%
results = experiment.get_results()
for metric in ("eval_reward", "eval_completions/mean_length"):
    print(metric)
    print(results.pivot_table(index="step", columns="run_id", values=f"boundary/{metric}").round(2).to_string())

# %%
experiment.end()
