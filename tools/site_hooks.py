"""What the site does beyond MkDocs: files of the repository that pages link, and pages that the navigation forgot.

Pages are written for the repository, where `../examples/x.yaml` works. The folders below are copied into the site, and
links that leave `docs/` are turned to these copies. A page that mkdocs.yml does not name, such as a new decision, is
put at the end of the navigation instead of being lost.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = ("examples", "benchmarks/results", "benchmarks/README.md")
SUFFIXES = (".md", ".py", ".yaml", ".ipynb", ".json")
_LINK = re.compile(r"(\]\()([^)#\s:]+)((?:#[^)\s]*)?\))")
_FENCE = re.compile(r"^ *(```|~~~)")


def on_files(files: Files, config: Any) -> Files:
    """Add the files of the repository that pages may link."""
    for place in PUBLISHED:
        path = ROOT / place
        for each in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if each.is_file() and each.suffix in SUFFIXES and "__pycache__" not in each.parts:
                name = each.relative_to(ROOT).as_posix()
                files.append(File.generated(config, name, abs_src_path=str(each)))
    there = {each.src_uri for each in files}
    config["nav"] = [kept for each in config["nav"] if (kept := _present(each, there))]
    known = set(_named(config["nav"]))
    decisions = [uri for uri in _pages(files) if re.match(r"decisions/\d", uri)]
    lost = [uri for uri in _pages(files) if uri not in known and uri not in decisions]
    place = next(each["How it is made"] for each in config["nav"] if "How it is made" in each)
    place.extend(decisions)
    if lost:
        config["nav"].append({"More": lost})
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links that leave `docs/` to the copies in the site."""
    source = page.file.src_uri
    inside = source.startswith(("examples/", "benchmarks/"))
    here = posixpath.dirname(source if inside else f"docs/{source}")

    def turned(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(here, match.group(2)))
        if target in {"examples", "benchmarks"}:
            target += "/README.md"
        published = target.startswith(("examples/", "benchmarks/"))
        if not inside and not published:
            return match.group(0)
        address = target if published else target.removeprefix("docs/")
        return match.group(1) + posixpath.relpath(address, posixpath.dirname(source) or ".") + match.group(3)

    lines, fenced = [], False
    for line in markdown.split("\n"):
        fenced ^= bool(_FENCE.match(line))
        lines.append(line if fenced else _LINK.sub(turned, line))
    return "\n".join(lines)


def _pages(files: Files) -> list[str]:
    return sorted(each.src_uri for each in files if each.is_documentation_page())


def _present(nav: Any, there: set[str]) -> Any:
    """Return the navigation without pages that are not there: those of a part that is not built yet."""
    if isinstance(nav, str):
        return nav if nav in there else None
    if isinstance(nav, dict):
        return {title: kept for title, inner in nav.items() if (kept := _present(inner, there))}
    return [kept for each in nav if (kept := _present(each, there))]


def _named(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    inner = nav.values() if isinstance(nav, dict) else nav
    return [name for each in inner for name in _named(each)]
