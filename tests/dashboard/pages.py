"""The dashboard as its user works with it: page objects for Playwright's sync API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect
from tests.support.waiting import wait_for

SECONDS = 60.0
"""How long a page may take for anything; other tests may keep the machine busy."""
WIDE = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
Op = Literal["Stop", "Resume", "Delete"]
expect.set_options(timeout=1000 * SECONDS)


def soon(what: str, look: Callable[[], Any]) -> Any:
    """Wait until `look` returns something true and return it."""
    return wait_for(what, look, SECONDS)


def context(browser: Browser, **options: Any) -> BrowserContext:
    """Return a fresh profile of the browser, as wide as a small desktop."""
    made = browser.new_context(**{"viewport": WIDE, **options})
    made.set_default_timeout(1000 * SECONDS)
    return made


class LoginPage:
    """Where a token is pasted."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        page.goto(f"{url}/login")

    def submit(self, token: str) -> None:
        """Paste a token and log in."""
        self.page.get_by_label("Your token for the cluster").fill(token)
        self.page.get_by_role("button", name="Log in").click()

    @property
    def problem(self) -> Locator:
        """Why it did not work."""
        return self.page.get_by_role("alert")


class ExperimentsPage:
    """The list of experiments."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.table = page.get_by_test_id("experiments")
        self.banner = page.get_by_test_id("banner")

    def row(self, name: str) -> Locator:
        """Return the row of an experiment."""
        return self.table.get_by_role("row").filter(has=self.page.get_by_role("link", name=name, exact=True))

    def search(self, words: str) -> None:
        """Look for experiments."""
        self.page.get_by_label("Search").fill(words)

    def open(self, name: str) -> ExperimentPage:
        """Follow the link to an experiment."""
        self.table.get_by_role("link", name=name, exact=True).click()
        return ExperimentPage(self.page).ready()

    def log_out(self) -> None:
        """Log out."""
        self.page.get_by_test_id("logout").click()
        self.page.wait_for_url("**/login")


class ExperimentPage:
    """The page of one experiment.

    Args:
        page: Playwright's page.
        address: Where to go first, if it is not there already.
    """

    def __init__(self, page: Page, address: str = "") -> None:
        self.page = page
        if address:
            page.goto(address)
        self.banner = page.get_by_test_id("banner")
        self.messages = page.get_by_test_id("messages")
        self.grid = page.get_by_test_id("grid")
        self.preview = page.get_by_test_id("clone-preview")
        self.curves_note = page.get_by_test_id("curves-note")

    def ready(self) -> ExperimentPage:
        """Wait until the runs are there."""
        expect(self.grid.locator(".ag-center-cols-container [row-id]").first).to_be_attached()
        return self

    # The table of runs.

    def cell(self, run: str, column: str) -> Locator:
        """Return a cell of the table, by its column: `state`, or `knob:training_args.learning_rate`."""
        return self.grid.locator(f'[row-id="{run}"] [col-id="{column}"]')

    def heads(self) -> list[str]:
        """Return what stands above the columns, those that are scrolled away included."""
        columns = "getElement(id).api.getColumnDefs().map((each) => each.headerName)"
        found: list[str] = self.page.evaluate(f"() => {{ const id = {self.number(self.grid)}; return {columns}; }}")
        return found

    def names(self) -> list[str]:
        """Return the runs of the table in the order in which they are shown, filters applied."""
        script = (
            "(id) => { const names = []; getElement(id).api.forEachNodeAfterFilterAndSort((n) => names.push(n.id));"
        )
        found: list[str] = self.page.evaluate(script + " return names; }", self.number(self.grid))
        return found

    def tick(self, *runs: str) -> None:
        """Tick runs, and no others."""
        self.page.evaluate("(id) => getElement(id).api.deselectAll()", self.number(self.grid))
        for run in runs:
            show = "([id, run]) => { const api = getElement(id).api; api.ensureNodeVisible(api.getRowNode(run)); }"
            self.page.evaluate(show, [self.number(self.grid), run])
            # The wrapper, not the input that it covers: so Playwright waits until the row stands still.
            self.grid.locator(f'[row-id="{run}"] .ag-checkbox-input-wrapper').click()
            expect(self.grid.locator(f'[row-id="{run}"] .ag-checkbox-input')).to_be_checked()
        expect(self.page.get_by_test_id("ticked")).to_have_text(f"{len(runs)} ticked")

    def filter(self, words: str) -> None:
        """Filter the table."""
        self.page.get_by_label("Filter runs").fill(words)

    # IC Ops.

    def press(self, label: str) -> None:
        """Press a button of the toolbar."""
        self.page.get_by_test_id(label.lower()).click()

    def operate(self, op: Op, *runs: str, immediate: bool = False) -> None:
        """Carry out an operation on runs, and say yes to the question."""
        self.tick(*runs)
        self.press(op)
        dialog = self.page.get_by_test_id("confirm")
        if immediate:
            dialog.get_by_text("after the current optimizer step").click()
        dialog.get_by_test_id("confirm-yes").click()
        expect(dialog).to_be_hidden()

    def commands(self) -> tuple[str, str]:
        """Return what the open dialog says as kubectl and as Python."""
        self.page.get_by_test_id("commands").get_by_role("button", name="As kubectl or Python").click()
        found = [self.page.get_by_test_id(name).text_content() or "" for name in ("as-kubectl", "as-python")]
        return found[0], found[1]

    def begin_clone(self, run: str) -> None:
        """Open the form of a clone."""
        self.tick(run)
        self.press("Clone")
        expect(self.page.get_by_test_id("clone-form")).to_be_visible()

    def knob(self, path: str) -> Locator:
        """Return the input of a knob in the form."""
        return self.page.get_by_test_id(f"knob-{path}")

    def set_knob(self, path: str, value: str) -> None:
        """Type a value into the form."""
        self.knob(path).fill(value)

    def warm(self) -> None:
        """Tick the warm start."""
        self.page.get_by_test_id("warm").click()

    def finish_clone(self) -> None:
        """Make the clone, once it was checked."""
        button = self.page.get_by_test_id("clone-yes")
        expect(button).to_be_enabled()
        button.click()
        expect(self.page.get_by_test_id("clone-form")).to_be_hidden()

    # The curves.

    def choose(self, control: Literal["metric", "axis"], label: str) -> None:
        """Choose a metric or what the horizontal axis shows."""
        self.page.get_by_test_id(control).click()
        self.page.get_by_role("option", name=label, exact=True).click()

    def curve(self, run: str) -> list[list[float]]:
        """Return the points of a run's curve as the chart draws them."""
        script = (
            "([id, run]) => (getElement(id).chart?.getOption().series ?? [])"
            ".filter((each) => each.id === run).map((each) => each.data)[0] ?? []"
        )
        found: list[list[float]] = self.page.evaluate(script, [self.number(self.page.get_by_test_id("chart")), run])
        return found

    def colour(self, run: str) -> str:
        """Return the colour of a run's curve."""
        script = "([id, run]) => getElement(id).chart.getOption().series.find((each) => each.id === run).color"
        return str(self.page.evaluate(script, [self.number(self.page.get_by_test_id("chart")), run]))

    def tab(self, name: str) -> None:
        """Open one of the tabs below the table."""
        self.page.get_by_role("tab", name=name).click()

    @staticmethod
    def number(element: Locator) -> int:
        """Return the number that NiceGUI knows an element by."""
        return int((element.get_attribute("id") or "c0").removeprefix("c"))
