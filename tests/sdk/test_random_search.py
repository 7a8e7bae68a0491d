"""A random search draws the same runs wherever it is drawn, all of them within what the knobs allow."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.sdk.test_expand import configs, through_the_api_server

from rapidfireai.api.experiment import ConfigGroup
from rapidfireai.automl import List, Range, RFGridSearch, RFLoraConfig, RFModelConfig, RFRandomSearch, RFSFTConfig
from rapidfireai.automl import get_runs as runs_of
from rapidfireai.expand import ConfigError, expand


def draws(config: dict[str, Any], runs: int = 5, seed: int | None = None) -> ConfigGroup:
    return ConfigGroup(strategy="random", trainer="SFT", num_runs=runs, seed=seed, config=config)


def rates(config: dict[str, Any], runs: int = 5, seed: int | None = None) -> list[Any]:
    written = {"training_args": {"learning_rate": config}}
    return [leaf["training_args"]["learning_rate"] for leaf in expand([draws(written, runs, seed)])]


def test_the_procedure_stays_as_it_is() -> None:
    even = {"$range": {"start": 0, "end": 1, "dtype": "float"}}
    assert rates(even, 3) == [0.045242467125478636, 0.2966467506491457, 0.6505884641299213]
    steep = {"$range": {"start": 1e-5, "end": 1e-2, "log": True}}
    assert rates(steep, 3) == [
        1.3668705968534328e-05,
        7.76140331796527e-05,
        0.0008948812165535975,
    ]
    assert rates(even, 3) == rates(even, 3, 42) != rates(even, 3, 43)


def test_each_group_draws_for_itself() -> None:
    config = {"training_args": {"max_steps": {"$range": {"start": 1, "end": 10**6}}}}
    leaves = expand([draws(config), draws(config)])
    assert leaves[:5] != leaves[5:]
    assert leaves[:5] == expand([draws(config)])


def test_a_step_gives_the_decimals_as_written_up_to_the_end() -> None:
    drawn = rates({"$range": {"start": 0.1, "end": 0.3, "step": 0.1}}, 3)
    assert sorted(drawn) == [0.1, 0.2, 0.3]


def test_a_logarithm_is_drawn_evenly() -> None:
    drawn = rates({"$range": {"start": 1e-6, "end": 1e-2, "log": True}}, 400)
    assert 170 < sum(rate < 1e-4 for rate in drawn) < 230


numbers = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: value + 0.0)
ranges = st.one_of(
    st.tuples(numbers, numbers).map(lambda pair: Range(min(pair), max(pair), dtype="float")),
    st.tuples(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9)).map(lambda p: Range(min(p), max(p), "float", log=True)),
    st.tuples(st.integers(-(10**6), 10**6), st.integers(0, 10**6)).map(lambda p: Range(p[0], p[0] + p[1])),
    st.tuples(st.integers(1, 10**6), st.integers(0, 10**6)).map(lambda p: Range(p[0], p[0] + p[1], log=True)),
    st.tuples(numbers, st.floats(0, 1e6), st.floats(1e-3, 1e3)).map(
        lambda p: Range(p[0], p[0] + p[1], dtype="float", step=p[2])
    ),
)


@settings(max_examples=300, deadline=None)
@given(ranges, st.floats(0, 1, exclude_max=True))
def test_a_value_lies_in_its_range_also_after_a_journey(span: Range, unit: float) -> None:
    value = span.at(unit)
    assert span.start <= value <= span.end
    assert type(value) is (int if span.dtype == "int" else float)
    returned = Range.from_wire(json.loads(json.dumps(through_the_api_server(span.to_wire()))))
    assert repr(returned.at(unit)) == repr(value)


drawn_configs = st.tuples(configs, st.sampled_from([None, "learning_rate", "weight_decay"]), ranges)


@settings(max_examples=150, deadline=None)
@given(st.lists(drawn_configs, min_size=1, max_size=3), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_sdk_and_operator_draw_alike_and_no_run_twice(written: list[Any], runs: int, seed: int) -> None:
    members = []
    for config, name, span in written:
        arguments = {**config.get("training_args", {}), **({name: {"$range": span.to_wire()}} if name else {})}
        members.append({**config, "training_args": arguments})
    config = {"$list": members}
    try:
        here = expand([draws(config, runs, seed)])
    except ConfigError as error:
        assume(not error.path.endswith("numRuns"))
        raise
    there = expand([draws(json.loads(json.dumps(through_the_api_server(config))), runs, seed)])
    assert here == there
    assert [repr(leaf["training_args"]) for leaf in here] == [repr(leaf["training_args"]) for leaf in there]
    texts = {json.dumps(through_the_api_server(leaf)) for leaf in here}
    assert len(texts) == len(here) == runs


@settings(max_examples=50, deadline=None)
@given(configs, st.integers(1, 4))
def test_what_is_drawn_from_lists_is_of_the_grid(config: dict[str, Any], runs: int) -> None:
    try:
        grid = expand([ConfigGroup(trainer="SFT", config=config)])
        drawn = expand([draws(config, runs)])
    except ConfigError:
        assume(False)
    assert all(leaf in grid for leaf in drawn)


@pytest.mark.parametrize(
    ("group", "path", "words"),
    [
        ({"strategy": "random"}, "numRuns", "how many runs to draw"),
        ({"num_runs": 3}, "numRuns", "belongs to strategy random"),
        ({"seed": 3}, "seed", "belongs to strategy random"),
        ({"strategy": "random", "num_runs": 2}, "numRuns", "have 1 combinations, and 2 different runs"),
    ],
)
def test_strategy_and_its_fields_go_together(group: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expand([ConfigGroup(trainer="SFT", config={}, **group)])
    assert caught.value.path == f"spec.configs[0].{path}"
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("argument", "span", "words"),
    [
        ("learning_rate", {"start": 0}, "end is required"),
        ("learning_rate", {"start": 2, "end": 1}, "start 2 is greater than end 1"),
        ("learning_rate", {"start": 0, "end": 1, "stop": 2}, "has no field stop"),
        ("learning_rate", 3, "must be a mapping with start and end"),
        ("max_steps", {"start": 0.5, "end": 1.5}, "needs whole numbers as bounds"),
        ("max_steps", {"start": 1, "end": 5, "dtype": "float"}, "give it dtype 'int'"),
        ("optim", {"start": 1, "end": 5, "dtype": "int"}, "must be one of"),
    ],
)
def test_bad_ranges_name_the_field_and_the_fix(argument: str, span: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expand([draws({"training_args": {argument: {"$range": span}}})])
    assert caught.value.path == f"spec.configs[0].config.training_args.{argument}"
    assert words in caught.value.message


def test_where_no_type_is_known_a_range_says_its_own() -> None:
    with pytest.raises(ConfigError, match="write dtype: int or dtype: float"):
        expand([draws({"model_kwargs": {"a": {"$range": {"start": 0, "end": 1}}}})])


def test_duplicates_only_are_refused_with_the_count() -> None:
    with pytest.raises(ConfigError, match="20 draws gave 1 different runs, not 2"):
        rates({"$list": [0.1, 0.1]}, 2)
    with pytest.raises(ConfigError, match="2 runs that are all the same"):
        expand([ConfigGroup(trainer="SFT", config={"training_args": {"learning_rate": {"$list": [0.1, 0.1]}}})])


def model(**arguments: Any) -> RFModelConfig:
    return RFModelConfig("m", peft_config=RFLoraConfig(r=Range(4, 64, step=4)), training_args=RFSFTConfig(**arguments))


def test_python_searches_draw_and_mix_with_grids() -> None:
    search = RFRandomSearch([model(seed=Range(1, 9)), model(max_steps=Range(1, 9))], "SFT", 12, seed=7)
    leaves = search.get_runs()
    assert leaves == runs_of(search) == RFRandomSearch(search.configs, "SFT", num_runs=12, seed=7).get_runs()
    assert {next(iter(leaf["training_args"])) for leaf in leaves} == {"seed", "max_steps"}
    assert all(leaf["peft_params"]["r"] in range(4, 65, 4) for leaf in leaves)
    grid = RFGridSearch(RFModelConfig("m", training_args=RFSFTConfig(seed=List([1, 2]))))
    assert len(runs_of([grid, [search]])) == 14


def test_a_function_drawn_twice_is_the_same_run() -> None:
    config = RFModelConfig("m", formatting_func=List([len, len, sorted]), training_args=RFSFTConfig())
    found = [leaf["additional_kwargs"]["formatting_func"] for leaf in RFRandomSearch(config, "SFT", 2).get_runs()]
    assert sorted(found, key=repr) == sorted([len, sorted], key=repr)


def test_mistakes_of_python_searches_are_named() -> None:
    with pytest.raises(TypeError, match="RFRandomSearch needs num_runs"):
        RFRandomSearch(model(seed=1), "SFT")
    with pytest.raises(TypeError, match="did you mean num_runs"):
        RFRandomSearch(model(seed=1), "SFT", 2, nums_run=3)
    with pytest.raises(ConfigError) as caught:
        RFRandomSearch(RFModelConfig("m", training_args=RFSFTConfig(seed=List([1, 2]))), "SFT", 3)
    assert caught.value.path == "configs[0].num_runs"
