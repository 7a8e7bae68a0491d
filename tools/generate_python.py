"""`docs/reference/python.md`: what a notebook or script imports, from the docstrings."""

from __future__ import annotations

import enum
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

from generate_reference import NOTE

MODULES = (
    ("rapidfireai", "Experiments", ("Experiment",)),
    (
        "rapidfireai.automl",
        "Configs, knobs and searches",
        (
            "List",
            "Range",
            "RFGridSearch",
            "RFRandomSearch",
            "RFModelConfig",
            "RFLoraConfig",
            "RFSFTConfig",
            "RFDPOConfig",
            "RFGRPOConfig",
            "RFvLLMModelConfig",
            "RFOpenAIAPIModelConfig",
            "RFAPIModelConfig",
            "RFLangChainRagSpec",
            "RFPromptManager",
        ),
    ),
    (
        "rapidfireai.policies",
        "Policies",
        ("SuccessiveHalving", "StopWhenWorse", "StopWhenBeaten", "MaxDuration", "MaxCost"),
    ),
    ("rapidfireai.utils.interactive_controller", "In a notebook", ("InteractiveController",)),
    ("rapidfireai.records", "Records", ("RunStatus", "RunSource", "RunEndedBy")),
    ("rapidfireai.errors", "Errors", ("RapidFireError", "ExperimentError", "ClusterNotFoundError")),
)
"""Each module, its heading, and the names of it that are meant for users."""
MANY = 25
"""More parameters are a list of their own, in the page of arguments."""
_SECTION = re.compile(r"^(Args|Returns|Raises|Attributes|Yields):$")
_ENTRY = re.compile(r"^(\*{0,2}\w[\w, *]*)(?: \([^)]*\))?: (.*)$")


def python_page() -> str:
    """Return the page of the Python API."""
    lines = [
        NOTE,
        "# Python API",
        "",
        "What the classes do together is in [Experiments from Python](../experiments.md); what `training_args` and "
        "`peft_config` take in [Arguments](arguments.md).",
    ]
    for module, heading, names in MODULES:
        lines += ["", f"## {heading}", "", f"`from {module} import ...`"]
        for name in names:
            lines += ["", f"### {name}", "", *_object(getattr(importlib.import_module(module), name), name)]
    return "\n".join(lines).rstrip() + "\n"


def _object(thing: Any, name: str) -> Iterator[str]:
    if inspect.isclass(thing) and issubclass(thing, enum.Enum):
        yield from _docstring(thing.__doc__)
        yield ""
        yield ", ".join(f"`{each.value}`" for each in thing)
        return
    if not issubclass(thing, Exception):
        yield from ("```text", f"{name}{_signature(thing)}", "```", "")
    yield from _docstring(thing.__doc__)
    if "model_fields" in dir(thing):
        yield ""
        for field, about in thing.model_fields.items():
            default = "" if about.is_required() else f" (`{about.default}`)"
            yield f"- `{field}`{default}: {about.description}"
    if name in {"Experiment", "InteractiveController"}:
        for method, function in _methods(thing):
            is_property = isinstance(inspect.getattr_static(thing, method), property)
            yield from ("", f"#### {name}.{method}", "")
            if not is_property:
                yield from ("```text", f"{method}{_signature(function)}", "```", "")
            yield from _docstring(function.__doc__)


def _methods(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties of a class: its own first, then what it inherits."""
    seen = set()
    for each in cls.__mro__[:-1]:
        for name, thing in vars(each).items():
            if name.startswith("_") or name in seen or not each.__module__.startswith("rapidfireai"):
                continue
            seen.add(name)
            inner = getattr(thing, "fget", None) or getattr(thing, "__func__", thing)
            if inspect.isfunction(inner) and inner.__doc__:
                yield name, inner


def _signature(thing: Any) -> str:
    """Return a signature, one parameter a line where it is long."""
    target = thing.__init__ if inspect.isclass(thing) and "__init__" in vars(thing) else thing
    words: list[str] = []
    for each in inspect.signature(target).parameters.values():
        if each.name in {"self", "cls"}:
            continue
        if each.kind is inspect.Parameter.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        # Annotations are text in these modules, and are shown as if they were code.
        words.append(re.sub(r"(: )'([^']*)'", r"\1\2", str(each.replace(annotation=_plain(each.annotation))), count=1))
    if len(words) > MANY:
        return "(**arguments)"
    text = f"({', '.join(words)})"
    return text if len(text) <= 100 else "(\n" + "".join(f"    {word},\n" for word in words) + ")"


def _plain(annotation: Any) -> Any:
    """Return an annotation without what only a type checker needs, or pydantic to check a value."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    return inspect.Parameter.empty if annotation in ("Any", Any) else annotation


def _docstring(text: str | None) -> Iterator[str]:
    """Yield a Google docstring as Markdown."""
    for line in inspect.cleandoc(text or "").splitlines():
        section, entry = _SECTION.match(line), _ENTRY.match(line.strip())
        if section is not None:
            yield from (f"*{section.group(1)}*", "")
        elif entry is not None and line.startswith("    ") and not line.startswith("     "):
            yield f"- `{entry.group(1)}`: {entry.group(2)}"
        elif line.startswith("        "):
            yield f"  {line.strip()}"
        else:
            yield line.strip()
