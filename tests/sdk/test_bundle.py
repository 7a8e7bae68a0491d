"""Functions travel to the workers by value, under a digest."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from rapidfireai.bundle import Bundle, BundleBuilder, make_bundle
from rapidfireai.errors import BundleError


def header(bundle: Bundle) -> dict[str, Any]:
    return json.loads(bundle.data.partition(b"\n")[0])


def objects(bundle: Bundle) -> dict[str, Any]:
    return cloudpickle.loads(bundle.data.partition(b"\n")[2])


def scaled(factor: int) -> Callable[[int], int]:
    def scale(value: int) -> int:
        return value * factor

    return scale


def run_python(script: str, *words: str, cwd: Path) -> str:
    answer = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=False, cwd=cwd, timeout=60
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


LOAD = """
import sys, cloudpickle
data = open(sys.argv[1], "rb").read().partition(b"\\n")[2]
print(cloudpickle.loads(data)["create_model_fn"](20))
"""
WRITE = "import sys; from rapidfireai.bundle import make_bundle; data = make_bundle({'create_model_fn': make}).data\n"
WRITE += "open(sys.argv[1], 'wb').write(data)"


def test_a_bundle_names_its_python_its_packages_and_what_is_in_it() -> None:
    bundle = make_bundle({"create_model_fn": scaled(2)})
    assert bundle.digest == hashlib.sha256(bundle.data).hexdigest()
    assert bundle.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    seen = header(bundle)
    assert (seen["format"], seen["python"]) == (1, bundle.python)
    assert seen["packages"]["cloudpickle"] == cloudpickle.__version__
    assert seen["keys"] == {"create_model_fn": "scaled.<locals>.scale"}


def test_closures_lambdas_and_instances_come_back() -> None:
    class Doubler:
        def __call__(self, value: int) -> int:
            return value * 2

    back = objects(make_bundle({"closure": scaled(3), "lambda": lambda value: value + 1, "instance": Doubler()}))
    assert (back["closure"](5), back["lambda"](5), back["instance"](5)) == (15, 6, 10)


def test_equal_functions_make_equal_bundles_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def make(value):\n    return {'a', 'b', 'c'} and value + 1\n")
    script = "from mine import make\n" + WRITE
    for name in ("first", "second"):
        run_python(script, str(tmp_path / name), cwd=tmp_path)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_a_cell_makes_the_same_bundle_after_the_kernel_was_restarted() -> None:
    def cell(kernel: int) -> Bundle:
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(compile("def make(value):\n    return value + 1\n", f"/tmp/ipykernel_{kernel}/12.py", "exec"), names)
        return make_bundle({"create_model_fn": names["make"]})

    assert cell(1).digest == cell(22).digest


def test_functions_of_a_script_or_notebook_need_nothing_of_it(tmp_path: Path) -> None:
    script = "OFFSET = 1\ndef helper(value):\n    return value + OFFSET\ndef make(value):\n    return helper(value)\n"
    run_python(script + WRITE, str(tmp_path / "bundle"), cwd=tmp_path)
    assert run_python(LOAD, str(tmp_path / "bundle"), cwd=tmp_path) == "21\n"


def test_local_modules_travel_along(tmp_path: Path) -> None:
    here = tmp_path / "here"
    (here / "project").mkdir(parents=True)
    (here / "project" / "__init__.py").touch()
    (here / "project" / "deep.py").write_text("STEP = 2\ndef inner(value):\n    return value + STEP\n")
    (here / "tools.py").write_text("from project.deep import inner\ndef make(value):\n    return inner(value)\n")
    run_python("from tools import make\n" + WRITE, str(tmp_path / "bundle"), cwd=here)
    assert run_python(LOAD, str(tmp_path / "bundle"), cwd=tmp_path) == "22\n"


def test_installed_modules_are_named_and_not_copied() -> None:
    assert len(make_bundle({"dumps": yaml_dump}).data) < 3000


def yaml_dump(value: object) -> str:
    import yaml

    return str(yaml.safe_dump(value))


def test_what_cannot_travel_is_named_with_its_argument() -> None:
    lock = threading.Lock()

    def create(config: object) -> object:
        return lock

    with pytest.raises(BundleError) as caught:
        make_bundle({"configs[0].formatting_func": scaled(1), "create_model_fn": create})
    message = str(caught.value)
    assert message.startswith("create_model_fn: cannot be sent to the workers")
    assert "uses `lock`" in message
    assert "make `lock` inside of the function" in message


def test_references_carry_the_digest_and_name_an_object_once() -> None:
    builder = BundleBuilder()
    function = scaled(2)
    builder.lift(function, "configs[0].formatting_func")
    builder.lift(function, "configs[1].formatting_func")
    bundle = builder.build()
    assert bundle is not None
    reference = builder.lift(function, "configs[1].formatting_func")
    expected = {"bundle": bundle.digest, "key": "configs[0].formatting_func", "label": "scaled.<locals>.scale"}
    assert reference == {"$ref": expected}
    assert list(objects(bundle)) == ["configs[0].formatting_func"]


def test_without_objects_there_is_no_bundle() -> None:
    assert BundleBuilder().build() is None


def test_the_lines_of_functions_travel_along_and_no_others(tmp_path: Path) -> None:
    text = "import functools\nSECRET = 'stays'\n\n@functools.cache\ndef make(value):\n    return value\n\nOTHER = 1\n"
    (tmp_path / "mine.py").write_text(f"{text}\nclass Scale:\n    def by(self, value):\n        return value\n")
    script = "import mine\nmake = [mine.make.__wrapped__, mine.Scale]\n" + WRITE
    run_python(script, str(tmp_path / "bundle"), cwd=tmp_path)
    seen = json.loads((tmp_path / "bundle").read_bytes().partition(b"\n")[0])["lines"]
    assert seen == {
        str(tmp_path / "mine.py"): {
            "4": "@functools.cache\ndef make(value):\n    return value\n",
            "11": "    def by(self, value):\n        return value\n",
        }
    }


def test_an_edit_elsewhere_in_a_file_changes_no_digest(tmp_path: Path) -> None:
    bundles = []
    for workers in (1, 2):
        script = "def make(value):\n    return value\n" + WRITE + f"\nworkers = {workers}\n"
        (tmp_path / "script.py").write_text(script)
        subprocess.run([sys.executable, "script.py", "bundle"], cwd=tmp_path, check=True, timeout=60)
        bundles.append((tmp_path / "bundle").read_bytes())
    assert bundles[0] == bundles[1]
    assert b"return value" in bundles[0].partition(b"\n")[0]


def test_local_modules_that_functions_import_travel_as_files(tmp_path: Path) -> None:
    files = {
        "project/__init__.py": "",
        "project/scores.py": "import json\nfrom .parts import half\nfrom . import more\n",
        "project/parts.py": "from plain import one\nhalf = 0.5\n",
        "project/more.py": "",
        "project/unused.py": "",
        "plain.py": "one = 1\n",
        "spaced/inner.py": "two = 2\n",
        "broken.py": "def (:\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    script = """def make(value):
    import broken, json, no_such_module
    from project.scores import half
    import spaced.inner as inner
"""
    run_python(script + WRITE, str(tmp_path / "bundle"), cwd=tmp_path)
    seen = json.loads((tmp_path / "bundle").read_bytes().partition(b"\n")[0])["modules"]
    names = ["plain", "project", "project.more", "project.parts", "project.scores", "spaced", "spaced.inner"]
    assert list(seen) == names
    assert seen["project.parts"] == {
        "file": str(tmp_path / "project/parts.py"),
        "package": False,
        "source": files["project/parts.py"],
    }
    assert (seen["project"]["package"], seen["spaced"]["package"]) == (True, True)
