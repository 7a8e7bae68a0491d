"""Which controls of a page have no name for those who cannot see them."""

from __future__ import annotations

from playwright.sync_api import Page

_SCRIPT = """() => {
  const roles = "button,link,checkbox,radio,combobox,textbox,slider,tab,switch,option,treeitem,img,dialog";
  const wanted = ["button", "a[href]", "input:not([type=hidden])", "select", "textarea",
    ...roles.split(",").map((role) => `[role=${role}]`)].join(",");
  const text = (element) => element ? (element.getAttribute?.("aria-label") || element.textContent || "").trim() : "";
  const named = (ids) => ids.split(" ").map((id) => text(document.getElementById(id))).join(" ").trim();
  const name = (element) =>
    element.getAttribute("aria-label") ||
    named(element.getAttribute("aria-labelledby") || "") ||
    [...(element.labels || [])].map(text).join(" ").trim() ||
    element.getAttribute("alt") || element.getAttribute("title") ||
    (element.matches("input,select,textarea") ? "" : text(element));
  const hidden = (element) => element.closest("[aria-hidden=true],[hidden]") || !element.getClientRects().length;
  return [...document.querySelectorAll(wanted)]
    .filter((element) => !hidden(element) && !name(element))
    .map((element) => element.outerHTML.slice(0, 300));
}"""


def nameless(page: Page) -> list[str]:
    """Return the visible controls that have no accessible name, as HTML."""
    found: list[str] = page.evaluate(_SCRIPT)
    return found
