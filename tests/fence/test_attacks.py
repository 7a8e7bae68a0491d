"""Every attack of the list is refused with its sentence, and leaves everything as it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.fence.attacks import ATTACKS, SCENES, Attack
from tests.fence.conftest import Stage

if TYPE_CHECKING:
    from rapidfireai.cluster.control_plane import ControlPlane

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("attacks")]


@pytest.fixture(scope="module")
def scenes(control_plane: ControlPlane, admin: httpx.Client, fence: None) -> Iterator[dict[str, Stage]]:
    """Each scene once: what is refused changes nothing, so that the next attack finds it as it was."""
    made: dict[str, Stage] = {}
    for name, (_, prepare) in SCENES.items():
        made[name] = Stage(control_plane, admin)
        made[name].prepare()
        prepare(made[name])
    yield made
    for stage in made.values():
        stage.close()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.who} {attack.what} ({attack.scene})")
def test_an_attack_is_refused_and_changes_nothing(scenes: dict[str, Stage], attack: Attack) -> None:
    stage = scenes[attack.scene]
    before = stage.everything()
    answer = attack.attempt(stage)
    user = f"system:serviceaccount:{stage.namespace}:rapidfire-user"
    assert attack.refusal in answer.replace(user, "<user>"), answer
    assert bool(answer) == bool(attack.refusal)
    assert stage.everything() == before
