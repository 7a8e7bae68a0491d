"""Code in the documentation is code: it compiles, its imports exist, its manifests are accepted, its commands exist."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
import yaml
from pydantic import TypeAdapter
from tests.docs.pages import PAGES, ROOT, Block, blocks, code_words

from rapidfireai.api import ExperimentSpec, ICOp, Run
from rapidfireai.cli.main import app
from rapidfireai_operator.core.acceptance import Accepted, judge

# The original system's clients, people's own projects.
FOREIGN = {"my_project"}
SHELLS = {"", "bash", "sh", "shell", "console"}
_KUBECTL = """annotate api-resources apply auth config cordon create delete describe drain edit exec explain get label
logs patch port-forward replace rollout scale top version wait"""
KUBECTL = set(_KUBECTL.split())
HELM = {"install", "upgrade", "uninstall", "lint", "list", "status", "get", "template", "rollback", "show", "history"}
BLOCKS = [block for page in PAGES for block in blocks(page)]
CODE = [block for block in BLOCKS if block.language == "python"]
MANIFESTS = [block for block in BLOCKS if block.language == "yaml"]
COMMANDS = typer.main.get_command(app).commands
MAKE = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
VALUES = yaml.safe_load((ROOT / "charts" / "rapidfireai" / "values.yaml").read_text())


@pytest.mark.parametrize("block", CODE, ids=str)
def test_python_compiles_and_its_imports_exist(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text, filename=str(block))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert is_there(alias.name), f"{block}: import {alias.name}"
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert is_there(node.module), f"{block}: from {node.module}"
            if node.module.split(".", maxsplit=1)[0] == "rapidfireai":
                module = importlib.import_module(node.module)
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert not missing, f"{block}: {node.module} has no {missing}"


def is_there(module: str) -> bool:
    """Whether a module can be imported; only the packages around it are."""
    return module.split(".", maxsplit=1)[0] in FOREIGN or importlib.util.find_spec(module) is not None


@pytest.mark.parametrize("block", MANIFESTS, ids=str)
def test_yaml_is_accepted(block: Block) -> None:
    for document in yaml.safe_load_all(block.text):
        if isinstance(document, dict):
            check_document(block, document)


def check_document(block: Block, document: dict[str, Any]) -> None:
    kind = document.get("kind")
    if kind is not None and str(document.get("apiVersion", "")).startswith("rapidfire.ai/"):
        spec = document["spec"]
        if kind == "Experiment":
            verdict = judge(document["metadata"]["name"], spec, allow_file_uris=False)
            assert isinstance(verdict, Accepted), f"{block}: {verdict}"
        else:
            {"Run": Run, "ICOp": ICOp}[kind].model_validate({"status": {}, **document})
    elif set(document) == {"spec"}:
        check_fields(block, document["spec"])
    elif set(document) == {"workers"}:
        check_fields(block, document)
    elif kind is None and set(document) <= set(VALUES):
        check_values(block, document, VALUES, "")


def check_fields(block: Block, spec: dict[str, Any]) -> None:
    """Check the fields of a part of an experiment; what it leaves out is elsewhere."""
    fields = {field.alias or name: field for name, field in ExperimentSpec.model_fields.items()}
    for name, value in spec.items():
        assert name in fields, f"{block}: spec.{name}: unknown field"
        if name not in {"configs", "data", "code"}:  # pieces of these stand for the whole
            TypeAdapter(fields[name].annotation).validate_python(value)


def check_values(block: Block, given: dict[str, Any], known: dict[str, Any], path: str) -> None:
    for name, value in given.items():
        assert name in known, f"{block}: {path}{name} is no value of the chart"
        if isinstance(value, dict) and isinstance(known[name], dict) and known[name]:
            check_values(block, value, known[name], f"{path}{name}.")


@functools.cache
def commands() -> list[tuple[str, list[str]]]:
    """Return every command line of the shell blocks, and of commands that stand in the text."""
    return list(found_commands())


def found_commands() -> Iterator[tuple[str, list[str]]]:
    for block in BLOCKS:
        if block.language in SHELLS:
            for line in block.text.replace("\\\n", " ").splitlines():
                yield from ((str(block), words) for words in split(line))
    for page in PAGES:
        for line, text in code_words(page):
            if re.match(r"^(rapidfireai|make|kubectl|helm) [a-z]", text):
                yield from ((f"{page.relative_to(ROOT)}:{line}", words) for words in split(text))


def split(line: str) -> Iterator[list[str]]:
    """Yield the words of the programs in a line that are checked."""
    line = re.sub(r"^\s*\$ ", "", line)
    if not re.match(r"^\s*(eval \"\$\()?(\S*/)?(rapidfireai|make|kubectl|helm) ", line):
        return
    line = re.sub(r"^\s*eval \"\$\((.*?)\)\".*", r"\1", line)
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a here-document goes on in the next lines
        words = line.split()
    end = next((place for place, word in enumerate(words) if word in {"|", "&&", ">", "<<<", "<<", "&", ";"}), None)
    yield [words[0].rsplit("/", 1)[-1], *words[1:end]]


def test_commands_exist() -> None:
    wrong = [f"{where}: {' '.join(words)}: {fault}" for where, words in commands() if (fault := mistake(words))]
    assert not wrong, "\n".join(wrong)


def mistake(words: list[str]) -> str:
    """Return what is wrong with a command, or an empty string."""
    program, arguments = words[0], words[1:]
    if program == "rapidfireai":
        return cli_mistake(arguments)
    if program == "make":
        targets = [word for word in arguments if re.match(r"^[a-z]", word) and "=" not in word]
        return ", ".join(f"no task {target}" for target in targets if target not in MAKE)
    arguments = without_options(arguments)
    known = KUBECTL if program == "kubectl" else HELM
    return f"no command {arguments[0]}" if arguments and arguments[0] not in known else ""


def without_options(arguments: list[str]) -> list[str]:
    """Return the words without options that stand before the command, such as `-n team-a`."""
    while arguments and arguments[0].startswith("-"):
        arguments = arguments[1 if "=" in arguments[0] else 2 :]
    return arguments


def cli_mistake(arguments: list[str]) -> str:
    name = next(iter(arguments), "--help")
    if name.startswith("-"):
        return ""
    unknown = [word for word in name.split("|") if word not in COMMANDS]  # `get|describe` are two
    if unknown:
        return f"rapidfireai has no command {unknown[0]}"
    if name in {"kubectl", "helm"}:
        return mistake([name, *arguments[1:]])
    if "|" in name:
        return ""
    options = {word for each in COMMANDS[name].params for word in (*each.opts, *each.secondary_opts)}
    given = [word.split("=")[0] for word in arguments[1:] if re.match(r"^--?[a-z]", word)]
    unknown = [word for word in given if word not in options | {"--help", "-h"}]
    return f"{name} has no option {unknown[0]}" if unknown else ""


def test_values_that_are_set_exist() -> None:
    wrong = []
    for where, words in commands():
        for place, word in enumerate(words):
            is_set = words[0] == "helm" and words[place - 1] == "--set"
            if is_set and not is_value(word.split("=")[0].split(".")):
                wrong.append(f"{where}: --set {word}")
    assert not wrong, "\n".join(wrong)


def is_value(path: list[str]) -> bool:
    """Whether the chart has a value there; its default may be null."""
    inner: Any = VALUES
    for part in path:
        if not isinstance(inner, dict) or part not in inner:
            return False
        inner = inner[part]
    return True
