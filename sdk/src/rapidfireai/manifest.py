"""An Experiment resource as its manifest. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from rapidfireai.api.base import API_VERSION
from rapidfireai.api.experiment import ExperimentSpec
from rapidfireai.api.workers import WorkerTemplate
from rapidfireai.words import WORDS

MANAGED_BY = {"app.kubernetes.io/managed-by": "rapidfireai-sdk"}
_SAID_ALWAYS = ("display_name", "mode", "seed")
"""What decides how runs come out is written even where it is the default."""


def body_of(name: str, spec: Mapping[str, Any], **metadata: str) -> dict[str, Any]:
    """Return the object for the API server.

    Args:
        name: The object's name.
        spec: Its spec as JSON.
        metadata: Further fields of its metadata.
    """
    return {
        "apiVersion": API_VERSION,
        "kind": "Experiment",
        "metadata": {"name": name, **metadata, "labels": dict(MANAGED_BY)},
        "spec": spec,
    }


def to_yaml(name: str, namespace: str, spec: ExperimentSpec, *comments: str) -> str:
    """Return an experiment as YAML for kubectl, without what is default anyway.

    Args:
        name: The object's name.
        namespace: The workspace.
        spec: What it asks for.
        comments: Lines that come first.
    """
    options: dict[str, Any] = {"mode": "json", "by_alias": True, "exclude_none": True}
    always = {*_SAID_ALWAYS, f"{WORDS[spec.mode].piece}s"}
    said = spec.model_dump(include=always, **options)
    said |= spec.model_dump(exclude_defaults=True, exclude={*always, "workers"}, **options)
    said["workers"] = {"replicas": spec.workers.replicas, **_template(spec.workers.template)}
    body = body_of(name, said, namespace=namespace)
    text: str = yaml.dump(body, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return "".join(f"# {line}\n" for line in comments) + text


def _template(template: WorkerTemplate) -> dict[str, Any]:
    """Return what was chosen about the workers' pods; a container always says its name."""
    options: dict[str, Any] = {"mode": "json", "by_alias": True, "exclude_none": True, "exclude_defaults": True}
    said = template.model_dump(**options)
    for container in said.get("spec", {}).get("containers", []):
        container.setdefault("name", "worker")
    return {"template": said} if said else {}


class _Dumper(yaml.SafeDumper):
    """Quotes every text that some YAML parser could take for something else; kubectl's knows more numbers."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal values out each time: people edit manifests."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = re.fullmatch(r"(?![yYnN]$)[A-Za-z$_][^\n]*", text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _represent_text)
