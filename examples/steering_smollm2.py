"""Steering: stop what loses after its first chunk, and clone the winner with another learning rate and its weights.

Two learning rates make two runs, which take turns on one worker. While they train, the panel below steers them with
buttons, and so do the cells. Run `rapidfireai start` first.
"""

# %%
import threading
import time
from typing import Any

import smollm2
from datasets import Dataset

from rapidfireai import Experiment
from rapidfireai.automl import List, RFGridSearch, RFLoraConfig, RFModelConfig, RFSFTConfig
from rapidfireai.utils.interactive_controller import InteractiveController

# %% [markdown]
# ## What is trained
#
# The questions of the SFT example, eight chunks an epoch: eight times there is something to decide.

# %%
experiment = Experiment(experiment_name="steering-smollm2", mode="fit")
demo = smollm2.prepare(experiment.workspace.mount_path)
train_rows, eval_rows = smollm2.trivia()
train_dataset, eval_dataset = Dataset.from_list(train_rows), Dataset.from_list(eval_rows)


def formatting_function(row: dict[str, str]) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": row["question"]}],
        "completion": [{"role": "assistant", "content": row["answer"]}],
    }


config = RFModelConfig(
    model_name=str(demo.model),
    model_kwargs={"torch_dtype": "float32"},
    peft_config=RFLoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]),
    training_args=RFSFTConfig(
        learning_rate=List([1e-6, 1e-3]),
        per_device_train_batch_size=4,
        num_train_epochs=1,
        max_length=128,
        logging_steps=2,
        gradient_checkpointing=False,
    ),
    formatting_func=formatting_function,
)

# %% [markdown]
# ## Train
#
# `run_fit` returns when no run can go on. The panel works all the while, since it is the browser that asks the gateway.
# So that cells work too, `run_fit` goes on in a thread here.

# %%
training = threading.Thread(
    target=experiment.run_fit,
    args=(RFGridSearch(configs=config, trainer_type="SFT"), None, train_dataset, eval_dataset),
    kwargs={"num_chunks": 8, "seed": 42, "num_workers": 1},
)
training.start()

# %% [markdown]
# ## Look
#
# After its first chunk every run has a loss that compares.


# %%
def losses() -> dict[int, float]:
    """Return the latest loss on the questions that no run is trained on, by run."""
    results = experiment.get_results()
    if "boundary/eval_loss" not in results:
        return {}
    return dict(results.dropna(subset="boundary/eval_loss").groupby("run_id")["boundary/eval_loss"].last())


while len(seen := losses()) < 2 and training.is_alive():
    time.sleep(0.5)
winner, loser = min(seen, key=seen.__getitem__), max(seen, key=seen.__getitem__)
print(f"run {winner} leads with {seen[winner]:.3f}, run {loser} has {seen[loser]:.3f}")

# %% [markdown]
# ## Steer
#
# The panel's buttons do what these lines do: the loser rests from its next chunk boundary on, and a clone of the
# winner goes on from the weights that it has now, with a third of its learning rate.

# %%
controller = InteractiveController(experiment=experiment.name)
controller.display()
controller.stop(loser)
clone = controller.clone(winner, {"training_args": {"learning_rate": 3e-4}}, warm_start=True)
print(f"run {clone} is a warm clone of run {winner}")

# %%
training.join()

# %% [markdown]
# ## Compare
#
# One column a run, one line a chunk. The clone begins where its parent stood; the loser kept what it had when it was
# stopped, and `controller.resume` would let it go on from there.

# %%
results = experiment.get_results()
print(results.pivot_table(index="step", columns="run_id", values="boundary/eval_loss").round(3).to_string())
print(experiment.get_runs_info()[["run_id", "status", "cloned_from", "warm_started_from"]].to_string(index=False))

# %%
experiment.end()
