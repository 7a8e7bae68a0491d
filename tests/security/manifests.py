"""What people apply on the day."""

from __future__ import annotations

SHARDS = 8

SHELF = """
apiVersion: v1
kind: PersistentVolume
metadata: {{name: shelf}}
spec:
  accessModes: [ReadWriteMany]
  capacity: {{storage: 1Gi}}
  storageClassName: ""
  hostPath: {{path: {path}}}
  claimRef: {{name: shelf, namespace: default}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: shelf, namespace: default, annotations: {{rapidfire.ai/mount-path: {path}}}}}
spec:
  accessModes: [ReadWriteMany]
  storageClassName: ""
  volumeName: shelf
  resources: {{requests: {{storage: 1Gi}}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: planted, namespace: default}}
stringData: {{token: {token}}}
"""
TEMPLATE = """
    template: {spec: {containers: [{name: worker, env: [
      {name: HF_TOKEN, valueFrom: {secretKeyRef: {name: planted, key: token}}}]}]}}
"""
DAY = f"""
apiVersion: rapidfire.ai/v1alpha1
kind: Experiment
metadata: {{name: day}}
spec:
  mode: evals
  shards: {SHARDS}
  objective: {{metric: Accuracy, direction: maximize}}
  policies: [{{successiveHalving: {{eta: 2, minChunks: 1}}}}]
  code:
    source: |
      def preprocess(batch):
          return {{**batch, "prompts": [[{{"role": "user", "content": each}}] for each in batch["question"]]}}
      def score(batch):
          right = sum(said == answer for said, answer in zip(batch["generated_text"], batch["answer"]))
          return {{"Accuracy": {{"value": right / len(batch["answer"]), "is_algebraic": True, "value_range": (0, 1)}}}}
  configs:
  - config:
      api_config:
        client_config: {{base_url: URL, api_key: {{$env: HF_TOKEN}}}}
        model_config: {{model: function}}
      batch_size: {{$list: [1, 2, 4]}}
      preprocess_fn: {{$function: preprocess}}
      compute_metrics_fn: {{$function: score}}
  data: {{eval: {{uri: "pvc://shelf/eval.jsonl"}}}}
  workers:
    replicas: 1
{TEMPLATE}
"""
FAILS = f"""
apiVersion: rapidfire.ai/v1alpha1
kind: Experiment
metadata: {{name: fails}}
spec:
  chunks: 1
  backoffLimit: 0
  code:
    createModel: create
    source: |
      import logging, os, sys
      def create(config):
          print(dict(os.environ))
          print(os.environ["HF_TOKEN"], file=sys.stderr)
          logging.getLogger("theirs").warning("the token is %s", os.environ["HF_TOKEN"])
          raise PermissionError(f"401 for {{os.environ['HF_TOKEN']}} of {{dict(os.environ)}}")
  configs:
  - trainer: SFT
    config: {{model_name: none, training_args: {{max_steps: 1}}}}
  data: {{train: {{uri: "pvc://shelf/train.jsonl"}}}}
  workers:
    replicas: 1
{TEMPLATE}
"""
