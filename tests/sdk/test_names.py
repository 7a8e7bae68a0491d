"""What experiments are called."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapidfireai.names import LONGEST_SLUG, free_name, slug


@pytest.mark.parametrize(
    ("display_name", "object_name"),
    [
        ("sft-smollm2", "sft-smollm2"),
        ("SFT SmolLM2!", "sft-smollm2"),
        ("sweep_1", "sweep-1"),
        ("über größe", "uber-groe"),
        ("7b", "x-7b"),
        ("模型", "rf-exp"),
        ("", "rf-exp"),
    ],
)
def test_a_slug_keeps_what_kubernetes_takes(display_name: str, object_name: str) -> None:
    assert slug(display_name) == object_name


@given(st.text(max_size=300))
def test_every_slug_is_a_valid_name_with_room_for_workers(display_name: str) -> None:
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", slug(display_name))
    assert len(slug(display_name)) <= LONGEST_SLUG


def test_long_names_are_told_apart_by_their_ends() -> None:
    assert slug("a" * 80 + "_1") != slug("a" * 80 + "_2")


@pytest.mark.parametrize(
    ("used", "wanted", "name"),
    [
        (set(), "sweep", "sweep"),
        ({"sweep"}, "sweep", "sweep_1"),
        ({"sweep", "sweep-1", "sweep-2"}, "sweep", "sweep_3"),
        ({"sweep-1"}, "sweep_1", "sweep_2"),
        ({"my-sweep"}, "My Sweep", "My Sweep_1"),
        ({"rf-exp"}, "", "rf-exp_1"),
    ],
)
def test_a_used_name_gets_the_next_free_number(used: set[str], wanted: str, name: str) -> None:
    assert free_name(wanted, used.__contains__) == name


def test_a_thousand_used_names_are_enough() -> None:
    with pytest.raises(ValueError, match="choose another name"):
        free_name("sweep", lambda _: True)
