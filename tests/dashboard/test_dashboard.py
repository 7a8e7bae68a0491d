"""What a user sees and does in the browser, against a real gateway on a real API server."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import Page, expect
from tests.dashboard.accessible import nameless
from tests.dashboard.builders import experiment, parent_ref, run
from tests.dashboard.conftest import Pace, Workspace
from tests.dashboard.pages import PHONE, ExperimentPage, ExperimentsPage, LoginPage, soon
from tests.operator import builders as manifests

from rapidfireai_worker.layout import Volume

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("dashboard")]  # one browser for all of them
NewPage = Callable[..., Page]
RATE = "knob:training_args.learning_rate"


@pytest.fixture(scope="module")
def six(workspace: Workspace) -> str:
    """Write an experiment whose six runs are in every state; return its name."""
    name = "six"
    first = run(1, 5, worker=0, experiment=name)
    workspace.writer.write(
        experiment(
            name,
            runs={"total": 6, "running": 3, "stopped": 1, "succeeded": 1, "pending": 1, "active": 4},
            chunks={"done": 22, "total": 48, "summary": "22/48"},
            best={"run": f"{name}-r4", "metric": "eval_loss", "value": 0.52677, "summary": f"{name}-r4 (0.527)"},
            eta="4m",
        ),
        first,
        run(2, 5, worker=1, experiment=name),
        run(3, 2, "Stopped", experiment=name),
        run(4, 8, "Succeeded", experiment=name),
        run(5, 0, "Pending", experiment=name),
        run(6, 2, experiment=name, parent=parent_ref(first, warm=True)),
    )
    return name


def write_log(workspace: Workspace, name: str, losses: list[tuple[int, float]]) -> None:
    """Write what a worker would have logged of a run."""
    objects = workspace.writer.read("Experiment") + workspace.writer.read("Run")
    uids = {each["metadata"]["name"]: each["metadata"]["uid"] for each in objects}
    path = Volume(workspace.site.volume).run(uids["six"], uids[name]).metrics
    path.parent.mkdir(parents=True)
    lines = [
        {"kind": "log", "sequence": number, "step": step, "time": 1000.0 + step, "values": {"loss": loss}}
        for number, (step, loss) in enumerate(losses)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def shown(workspace: Workspace, six: str, new_page: NewPage) -> ExperimentPage:
    return ExperimentPage(new_page(), workspace.address(six)).ready()


class TestLogin:
    def test_a_link_logs_in_once_and_logging_out_ends_every_window(
        self, workspace: Workspace, new_page: NewPage
    ) -> None:
        link = workspace.login_link()
        page = new_page(token="")
        page.goto(link)
        page.wait_for_url(f"{workspace.url}/")
        (cookie,) = page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert workspace.site.token not in cookie["value"]
        other = page.context.new_page()
        other.goto(workspace.url)
        assert httpx.get(link).status_code == 401
        ExperimentsPage(page).log_out()
        expect(ExperimentsPage(other).banner).to_contain_text("log in again")
        page.goto(workspace.url)
        page.wait_for_url("**/login")

    def test_a_pasted_token_logs_in_and_a_wrong_one_is_refused_with_a_sentence(
        self, workspace: Workspace, new_page: NewPage
    ) -> None:
        login = LoginPage(new_page(token=""), workspace.url)
        login.submit("no-token")
        expect(login.problem).to_contain_text("token is not valid")
        assert nameless(login.page) == []
        login.submit(workspace.site.token)
        login.page.wait_for_url(f"{workspace.url}/")

    def test_no_page_is_shown_in_a_frame_of_another_site_or_loads_from_one(self, workspace: Workspace) -> None:
        policy = httpx.get(f"{workspace.url}/login").headers["content-security-policy"]
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy


class TestList:
    def test_experiments_are_listed_and_found(self, workspace: Workspace, six: str, new_page: NewPage) -> None:
        workspace.writer.write(experiment("another"))
        page = new_page()
        page.goto(workspace.url)
        listed = ExperimentsPage(page)
        expect(listed.row(six)).to_contain_text("22/48")
        expect(listed.row(six)).to_contain_text("six-r4 (0.527)")
        listed.search("anoth")
        expect(listed.row(six)).to_be_hidden()
        listed.search("")
        assert nameless(listed.page) == []
        assert listed.open(six).cell("six-r1", "state").text_content() == "Running"


class TestRuns:
    def test_the_table_has_the_knobs_that_differ_and_marks_the_best(self, shown: ExperimentPage) -> None:
        fixed = ["Run", "State", "Chunks", "Step", "Loss", "Objective", "Interval"]
        assert shown.heads()[:9] == [*fixed, "r", "learning_rate"]
        expect(shown.cell("six-r1", RATE)).to_have_text("0.0003")
        expect(shown.cell("six-r4", "label")).to_contain_text("best")
        shown.filter("Stopped")
        soon("filter", lambda: shown.names() == ["six-r3"])

    def test_curves_follow_the_choices_and_come_alive(self, workspace: Workspace, shown: ExperimentPage) -> None:
        soon("curve", lambda: len(shown.curve("six-r1")) == 5)
        colour = shown.colour("six-r1")
        shown.choose("axis", "chunks")
        soon("chunks", lambda: [x for x, _ in shown.curve("six-r1")] == [1, 2, 3, 4, 5])
        shown.tick("six-r2")
        shown.press("Hide")
        soon("hidden curve", lambda: shown.curve("six-r2") == [])
        workspace.writer.write(run(1, 6, worker=1, experiment="six"))
        soon("point that comes by itself", lambda: len(shown.curve("six-r1")) == 6)
        assert shown.colour("six-r1") == colour
        expect(shown.cell("six-r1", "chunks")).to_have_text("6/8")
        shown.page.get_by_test_id("show-all").click()
        soon("curve again", lambda: len(shown.curve("six-r2")) == 5)

    def test_curves_say_what_is_missing_while_the_volume_service_is_down(
        self, workspace: Workspace, shown: ExperimentPage
    ) -> None:
        shown.choose("metric", "loss")
        expect(shown.curves_note).to_contain_text("the volume service of namespace")
        expect(shown.curves_note).to_contain_text("0 of 6 runs have a value of loss")
        write_log(workspace, "six-r1", [(step, 2.0 - 0.1 * step) for step in range(1, 9)])
        workspace.site.volume_service()
        soon("curve out of the log", lambda: len(shown.curve("six-r1")) == 8)
        expect(shown.curves_note).not_to_contain_text("volume service")
        shown.choose("axis", "time")
        soon("times", lambda: shown.curve("six-r1")[:1] == [[1000.0 * 1001, 1.9]])

    def test_two_configs_are_compared(self, shown: ExperimentPage) -> None:
        shown.tick("six-r1", "six-r4")
        shown.press("Compare")
        diff = shown.page.get_by_test_id("diff")
        expect(diff.get_by_role("row").filter(has_text="peft_config.r")).to_contain_text("48")
        expect(diff).to_contain_text("training_args.learning_rate")

    def test_clones_stand_below_their_parents_and_mlflow_is_linked(self, shown: ExperimentPage) -> None:
        shown.tab("Lineage")
        expect(shown.page.get_by_test_id("lineage")).to_contain_text("r6, Running, 1.101, warm")
        shown.tick("six-r1")
        link = shown.page.get_by_test_id("mlflow")
        expect(link).to_have_attribute("href", f"http://127.0.0.1:9/#/experiments/7/runs/{1:032x}")
        expect(shown.page.get_by_test_id("mlflow-down")).to_contain_text("MLflow does not answer")

    def test_lanes_are_drawn_of_what_was_seen(self, workspace: Workspace, shown: ExperimentPage) -> None:
        page = shown.page
        expect(page.get_by_test_id("lanes-note")).to_contain_text("earlier chunks have no lane")
        page.get_by_test_id("lanes-table").get_by_text("The lanes as a table").click()
        expect(page.get_by_test_id("lanes-table")).to_contain_text("six-w-1")


class TestDevices:
    def test_every_control_has_a_name_also_in_dialogs(self, shown: ExperimentPage) -> None:
        page = shown.page
        assert nameless(page) == []
        shown.tick("six-r1")
        shown.press("Delete")
        expect(page.get_by_test_id("confirm")).to_be_visible()
        assert nameless(page) == []
        page.get_by_test_id("confirm-no").click()
        shown.begin_clone("six-r1")
        assert nameless(page) == []
        page.keyboard.press("Escape")
        expect(page.get_by_test_id("clone-form")).to_be_hidden()

    def test_the_keyboard_alone_reaches_a_run_and_asks_to_stop_it(self, shown: ExperimentPage) -> None:
        page = shown.page
        shown.grid.locator('[row-id="six-r2"] [col-id="ag-Grid-SelectionColumn"]').focus()
        page.keyboard.press("Space")
        expect(page.get_by_test_id("ticked")).to_have_text("1 ticked")
        page.get_by_test_id("stop").focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_test_id("confirm")
        expect(dialog).to_contain_text("Stop run r2?")
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()

    @pytest.mark.parametrize("scheme", ["dark", "light"])
    def test_it_fits_a_phone_in_both_themes(
        self, workspace: Workspace, six: str, new_page: NewPage, scheme: str
    ) -> None:
        page = new_page(viewport=PHONE, color_scheme=scheme)
        shown = ExperimentPage(page, workspace.address(six)).ready()
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"], f"the page is {width} pixels wide"
        expect(page.locator(f"body.body--{scheme}")).to_be_attached()
        shown.begin_clone("six-r1")
        expect(page.get_by_test_id("clone-no")).to_be_visible()


class TestRights:
    def test_a_reader_sees_everything_and_is_told_which_right_is_missing(
        self, workspace: Workspace, six: str, new_page: NewPage
    ) -> None:
        shown = ExperimentPage(new_page(workspace.reader), workspace.address(six)).ready()
        shown.operate("Stop", "six-r1")
        expect(shown.messages).to_contain_text("may not create icops.rapidfire.ai")

    def test_an_experiment_that_is_none_is_said_to_be_none(self, workspace: Workspace, new_page: NewPage) -> None:
        shown = ExperimentPage(new_page(), workspace.address("nothing"))
        expect(shown.banner).to_contain_text("there is no experiment nothing")


class TestSteering:
    def test_a_user_stops_one_run_clones_the_other_warm_and_sees_both(
        self, workspace: Workspace, pace: Pace, new_page: NewPage
    ) -> None:
        workspace.writer.write(manifests.experiment("live", runs=2, replicas=1))
        shown = ExperimentPage(new_page(), workspace.address("live")).ready()
        soon("first chunks", lambda: shown.curve("live-r1") and shown.curve("live-r2"))
        shown.tick("live-r1")
        shown.press("Stop")
        kubectl, python = shown.commands()
        assert json.loads(kubectl.split("'EOF'\n")[1].removesuffix("\nEOF"))["spec"]["runs"] == ["live-r1"]
        assert python.endswith("experiment.stop(1)")
        shown.page.get_by_test_id("confirm-yes").click()
        expect(shown.messages).to_contain_text("Stop is accepted: r1.")
        expect(shown.cell("live-r1", "state")).to_have_text("Stopped")

        shown.begin_clone("live-r2")
        shown.set_knob("training_args.learning_rate", "fast")
        expect(shown.preview).to_contain_text("write a number")
        shown.set_knob("training_args.learning_rate", "0.0042")
        shown.warm()
        expect(shown.preview).to_contain_text("training_args.learning_rate: 0.002 → 0.0042")
        shown.finish_clone()
        expect(shown.messages).to_contain_text("CloneModify is accepted: r3.")
        expect(shown.cell("live-r3", RATE)).to_have_text("0.0042")
        expect(shown.cell("live-r3", "parent")).to_have_text("r2 (warm)")

        pace.seconds = 0.1
        shown.operate("Resume", "live-r1")
        expect(shown.messages).to_contain_text("Resume is accepted: r1.")
        expect(shown.cell("live-r1", "state")).to_have_text("Succeeded")
        shown.operate("Stop", "live-r1")
        expect(shown.messages.locator(".rf-bad").last).to_contain_text("Stop of r1 was refused")
        shown.tab("IC Ops")
        history = shown.page.get_by_test_id("icops")
        expect(history.get_by_role("row").filter(has_text="CloneModify, warm")).to_contain_text("r3")


class TestOutages:
    def test_a_dead_api_server_is_said_and_the_page_recovers_by_itself(
        self, workspace: Workspace, shown: ExperimentPage
    ) -> None:
        workspace.site.line.cut()
        try:
            expect(shown.banner).to_contain_text("the API server does not answer")
            shown.operate("Stop", "six-r3")
            expect(shown.messages).to_contain_text("was refused: the API server does not answer")
            workspace.writer.write(run(2, 6, worker=1, experiment="six"))
        finally:
            workspace.site.line.mend()
        expect(shown.banner).to_be_hidden()
        expect(shown.cell("six-r2", "chunks")).to_have_text("6/8")
