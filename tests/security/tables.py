"""The tables of the documentation that are written from the tests: `python -m tests.security.tables` renews them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fence.attacks import ATTACKS, NO_EFFECT, SCENES
from tests.security.rights import RELEASE, RIGHTS, STEPS, Grant

DOCS = Path(__file__).resolve().parents[2] / "docs"
WHERE = {
    "rapidfire-operator": "in each workspace, for the account in the release's namespace",
    "rapidfire-worker": "in its own workspace",
    "rapidfire-volume": "in its own workspace; `tokenreviews`, which are in no namespace, by a ClusterRole",
    "rapidfire-user": "in its own workspace; bind people to the Role of this name",
    "rapidfire-gateway": "nowhere: each request acts with its caller's token",
}


@dataclass(frozen=True, slots=True)
class Table:
    """A part of a page, between two comments.

    Attributes:
        name: What the comments call it.
        page: The file below `docs/`.
        write: Returns its lines.
    """

    name: str
    page: str
    write: Callable[[], list[str]]

    def _parts(self) -> tuple[str, str, str]:
        begin, end = f"<!-- {self.name}: begin -->\n", f"<!-- {self.name}: end -->\n"
        before, _, rest = (DOCS / self.page).read_text().partition(begin)
        inside, _, after = rest.partition(end)
        return before + begin, inside, end + after

    def is_fresh(self) -> bool:
        """Whether the page has what the tests say."""
        return self._parts()[1] == "".join(f"{line}\n" for line in self.write())

    def renew(self) -> None:
        """Write it into the page."""
        before, _, after = self._parts()
        (DOCS / self.page).write_text(before + "".join(f"{line}\n" for line in self.write()) + after)


def rights() -> list[str]:
    """Every right by account."""
    lines = []
    for account, grants in RIGHTS.items():
        lines += [f"## `{account}`", "", f"Held {WHERE[account]}.", ""]
        lines += _grants(grants)
        if account in RELEASE:
            lines += ["In the release's namespace alone:", "", *_grants(RELEASE[account])]
    return lines


def _grants(grants: tuple[Grant, ...]) -> list[str]:
    if not grants:
        return []
    lines = ["| API group | resource | verb | step that needs it |", "| --- | --- | --- | --- |"]
    for grant in grants:
        only = f" (`{'`, `'.join(grant.names)}`)" if grant.names else ""
        group = f"`{grant.group}`" if grant.group else "core"
        lines += [
            f"| {group} | `{grant.resource}`{only} | {verb} | [{step}](#steps) |" for verb, step in grant.verbs.items()
        ]
    return [*lines, ""]


def steps() -> list[str]:
    """What is done in each step."""
    return ["| step | what happens |", "| --- | --- |", *(f"| {name} | {what} |" for name, what in STEPS.items())]


def attacks() -> list[str]:
    """Every attack and its refusal."""
    lines = ["| | who | tries | while | is told |", "| ---: | --- | --- | --- | --- |"]
    for number, each in enumerate(ATTACKS, start=1):
        told = "nothing: it has no effect" if each.refusal == NO_EFFECT else each.refusal.replace("<user>", "*user*")
        lines.append(f"| {number} | {each.who} | {each.what} | {each.scene} | {told} |")
    return lines


def scenes() -> list[str]:
    """How a run stands when it is attacked."""
    return ["| while | the run |", "| --- | --- |", *(f"| {name} | {what} |" for name, (what, _) in SCENES.items())]


TABLES = (
    Table("rights", "reference/rights.md", rights),
    Table("steps", "reference/rights.md", steps),
    Table("attacks", "security.md", attacks),
    Table("scenes", "security.md", scenes),
)

if __name__ == "__main__":
    for table in TABLES:
        table.renew()
