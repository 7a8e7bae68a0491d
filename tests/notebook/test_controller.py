"""`InteractiveController` in Python: through the gateway, to the operator, and back."""

from __future__ import annotations

import pytest
from IPython.display import HTML
from tests.gateway.site import Site
from tests.notebook.conftest import Stage, url
from tests.support.waiting import wait_for

from rapidfireai.errors import ClusterNotFoundError, ConfigError, ExperimentError
from rapidfireai.fit.utils.interactive_controller import InteractiveController
from rapidfireai.notebook.client import GatewayError
from rapidfireai.notebook.panel import Panel
from rapidfireai.progress.views import NotebookView
from rapidfireai.utils.interactive_controller import InteractiveController as Documented
from rapidfireai.utils.notebook_ui import NotebookUI

pytestmark = pytest.mark.xdist_group("notebook")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAPIDFIRE_GATEWAY", "http://127.0.0.1:1")
    monkeypatch.setenv("RAPIDFIRE_TOKEN", "s3cret")


@pytest.mark.integration
def test_runs_are_steered_and_refusals_say_why(stage: Stage) -> None:
    controller = InteractiveController(url(stage.site), token=stage.site.token, experiment=stage.name)
    winner = stage.working()
    loser = 3 - winner
    controller.stop(loser)
    wait_for("stopped run", lambda: stage.runs()[loser]["status"]["state"] == "Stopped")
    clone = controller.clone(winner, {"training_args": {"learning_rate": 0.0005}}, warm_start=True)
    assert clone == 3
    assert stage.runs()[3]["spec"]["config"]["training_args"]["learning_rate"] == 0.0005
    listed = {run["run_id"]: run for run in controller.fetch_all_runs()}
    assert set(listed) == {1, 2, 3}
    assert listed[loser]["status"].value == "Stopped"
    assert controller.load_run(f"{stage.name}-r{clone}")["config"]["training_args"]["learning_rate"] == 0.0005
    controller.resume(loser)
    controller.delete(loser)
    with pytest.raises(ExperimentError, match=f"{stage.name}-r{loser}"):
        controller.resume(loser)
    with pytest.raises((ExperimentError, GatewayError), match=f"{stage.name}-r9"):
        controller.stop(9)
    with pytest.raises(ConfigError, match="formatting_func"):
        controller.clone(winner, {"formatting_func": print})
    with pytest.raises((ExperimentError, GatewayError), match="learning_rate"):
        controller.clone(winner, {"training_args": {"learning_rte": 1}})


@pytest.mark.integration
def test_who_is_nobody_hears_what_to_do(site: Site) -> None:
    with pytest.raises(GatewayError, match="does not take the token"):
        InteractiveController(url(site), token="expired").fetch_all_runs()


def test_both_import_paths_are_the_same() -> None:
    assert Documented is InteractiveController
    assert issubclass(NotebookUI, InteractiveController)


def test_a_gateway_that_does_not_answer_is_named(known: None) -> None:
    with pytest.raises(GatewayError, match=r"http://127\.0\.0\.1:1 does not answer"):
        InteractiveController().fetch_all_runs()


def test_a_token_is_not_shown_to_another_host(known: None) -> None:
    with pytest.raises(ValueError, match="pass token="):
        InteractiveController("http://elsewhere.example:8851")


def test_without_a_cluster_the_fix_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    for name in ("RAPIDFIRE_GATEWAY", "RAPIDFIRE_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAPIDFIREAI_HOME", str(tmp_path))
    with pytest.raises(ClusterNotFoundError, match="rapidfireai start"):
        InteractiveController()


def test_what_a_notebook_keeps_of_the_panel_has_no_token(known: None) -> None:
    controller = InteractiveController()
    panel = Panel(controller._client)
    panel.greet()
    assert "s3cret" not in str(panel.get_state()) + repr(panel) + repr(controller)


def test_a_negative_interval_is_refused(known: None) -> None:
    with pytest.raises(ValueError, match="seconds"):
        InteractiveController().auto_refresh(-1)


def test_run_fit_in_a_notebook_links_to_the_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def show(page: HTML, display_id: bool) -> None:
        shown.append(page.data)

    monkeypatch.setattr("IPython.display.display", show)
    NotebookView("http://127.0.0.1:8853").note("waiting")
    assert 'href="http://127.0.0.1:8853"' in shown[0]
