"""One base for all runs that may share it, and for nobody else."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.fit.models import Base, BaseCache, complete, load_by_name
from rapidfireai_worker.fit.recorded import Recorded, value_at
from rapidfireai_worker.rng import Rng

pytestmark = pytest.mark.ml

Reads = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda c: c["model_name"], {("model_name",)}),
        (lambda c: c.get("missing"), {("missing",)}),
        (lambda c: c["model_kwargs"]["scale"], {("model_kwargs", "?"), ("model_kwargs", "scale")}),
        (lambda c: "peft_params" in c, {("peft_params",)}),
        (lambda c: dict(**c["model_kwargs"]), {("model_kwargs", "?"), ("model_kwargs", "*")}),
        (lambda c: {**c}, {("*",)}),
        (dict, {("*",)}),
        (lambda c: c | {}, {("*",)}),
        (lambda c: c.copy(), {("*",)}),
        (copy.deepcopy, {("*",)}),
        (json.dumps, {("*",)}),
        (len, {("*",)}),
        (lambda c: list(c.items()), {("*",)}),
        (lambda c: c == {}, {("*",)}),
        (repr, {("*",)}),
        (lambda c: c.pop("model_name"), {("model_name",)}),
    ],
)
def test_every_way_to_read_a_config_is_noticed(read: Reads, expected: set[tuple[str, ...]]) -> None:
    reads: set[tuple[str, ...]] = set()
    read(Recorded({"model_name": "x", "model_kwargs": {"scale": 1}}, reads))
    assert expected <= reads
    assert (("*",) in reads) == (("*",) in expected), "reading one part is not reading everything"


def test_a_recorded_config_is_a_dict_with_the_configs_values() -> None:
    plain = {"model_name": "x", "model_kwargs": {"scale": 1}}
    recorded = Recorded(plain, set())
    assert isinstance(recorded, dict)
    assert (json.loads(json.dumps(recorded)), copy.deepcopy(recorded), recorded) == (plain, plain, plain)


def test_values_at_a_path_tell_configs_apart() -> None:
    one: dict[str, Any] = {"a": {"b": 1}, "c": None}
    assert value_at(one, ("a", "b")) == value_at({"a": {"b": 1, "x": 2}}, ("a", "b"))
    assert value_at(one, ("a", "*")) != value_at({"a": {"b": 1, "x": 2}}, ("a", "*"))
    assert value_at(one, ("c",)) != value_at({}, ("c",))
    assert value_at(one, ("a", "?")) != value_at({"a": None}, ("a", "?"))


def loader(calls: list[str], *, draws: bool = False) -> Any:
    def load(config: dict[str, Any]) -> tuple[Any, Any]:
        calls.append(config["model_name"])
        model = torch.nn.Linear(2, 2)
        with torch.no_grad():
            model.weight.copy_(torch.rand(2, 2) if draws else torch.ones(2, 2))
        return model, object()

    if draws:
        return load

    def quiet(config: dict[str, Any]) -> tuple[Any, Any]:
        with torch.random.fork_rng():
            return load(config)

    return quiet


def get(cache: BaseCache, config: dict[str, Any], load: Any, seed: int = 1, code: str = "c") -> Base:
    torch.manual_seed(seed)
    base = cache.get(config, config, seed, code, load)
    base.users += 1
    return base


def test_a_base_is_loaded_again_only_for_what_loading_read() -> None:
    calls: list[str] = []
    cache, load = BaseCache(torch.device("cpu")), loader(calls)
    first = get(cache, {"model_name": "m", "training_args": {"learning_rate": 1}}, load)
    assert get(cache, {"model_name": "m", "training_args": {"learning_rate": 2}}, load, seed=2) is first
    assert get(cache, {"model_name": "other"}, load) is not first
    assert get(cache, {"model_name": "m"}, load, code="other code") is not first
    assert len(calls) == 3


def test_a_base_that_was_drawn_at_random_belongs_to_its_seed() -> None:
    calls: list[str] = []
    cache, load = BaseCache(torch.device("cpu")), loader(calls, draws=True)
    first = get(cache, {"model_name": "m"}, load, seed=1)
    after = Rng.capture()
    assert get(cache, {"model_name": "m"}, load, seed=1) is first
    assert Rng.capture().same(after), "the generators must stand where loading leaves them"
    assert get(cache, {"model_name": "m"}, load, seed=2) is not first


def test_a_base_that_nobody_uses_makes_room_for_the_next() -> None:
    calls: list[str] = []
    cache, load = BaseCache(torch.device("cpu")), loader(calls)
    first = get(cache, {"model_name": "m"}, load)
    first.users -= 1
    assert get(cache, {"model_name": "m"}, load) is first
    first.users -= 1
    get(cache, {"model_name": "other"}, load)
    assert get(cache, {"model_name": "m"}, load) is not first


def tiny_base(folder: Path) -> Base:
    return Base(*load_by_name(complete({"model_name": str(folder)})), identity="tiny")


def test_copies_share_frozen_weights_and_nothing_else(tiny_model: Path) -> None:
    base = tiny_base(tiny_model)
    model, tokenizer = base.copy(share_all=True)
    pairs = list(zip(base.model.parameters(), model.parameters(), strict=True))
    assert all(theirs is not ours and theirs.data_ptr() == ours.data_ptr() for theirs, ours in pairs)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert tokenizer is not base.tokenizer
    assert model.config is not base.model.config
    full, _ = base.copy(share_all=False)
    assert not {p.data_ptr() for p in full.parameters()} & {p.data_ptr() for p in base.model.parameters()}


def test_a_changed_base_is_noticed(tiny_model: Path) -> None:
    base = tiny_base(tiny_model)
    model, _ = base.copy(share_all=True)
    model.lm_head.weight.data = torch.zeros(2)
    assert base.intact(thorough=True), "replacing data is the session's own affair"
    with torch.no_grad():
        model.model.norm.weight.add_(1)
    assert not base.intact(thorough=False)

    base = tiny_base(tiny_model)
    base.copy(share_all=True)[0].model.norm.weight.data.add_(1)
    assert not base.intact(thorough=True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_name": "/no/such/folder"}, "model_name: /no/such/folder is not a folder that this worker sees"),
        ({"model_name": "no/such-model"}, "model_name: 'no/such-model' cannot be loaded: OSError"),
        ({}, "model_name: missing; write a hub name, an absolute path or pvc://CLAIM/path"),
        ({"model_name": "m", "model_type": "magic"}, "model_type: 'magic' is not built in; write causal_lm"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_named_with_its_field(config: dict[str, Any], message: str) -> None:
    with pytest.raises(RunFailure) as failure:
        load_by_name(complete(config))
    assert message in failure.value.message


def test_dtypes_are_written_by_name(tiny_model: Path) -> None:
    for key, name in (("dtype", "bfloat16"), ("torch_dtype", "torch.bfloat16")):
        model, _ = load_by_name(complete({"model_name": str(tiny_model), "model_kwargs": {key: name}}))
        assert model.dtype == torch.bfloat16
    assert load_by_name(complete({"model_name": str(tiny_model)}))[0].dtype == torch.float32
    with pytest.raises(RunFailure, match=r"model_kwargs\.dtype: 'float33' is no dtype"):
        complete({"model_kwargs": {"dtype": "float33"}})
