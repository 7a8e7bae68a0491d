"""Code bundles: the user's objects, or a sentence that says why not."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from tests.fit import user_code
from tests.support.lab import Lab

from rapidfireai_worker.causes import Guarded
from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.user_code.bundles import Bundles, UserCode

pytestmark = pytest.mark.ml

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def put(lab: Lab, header: dict[str, Any], body: bytes | None = None) -> str:
    data = json.dumps(header).encode() + b"\n" + (cloudpickle.dumps({"one": 1}) if body is None else body)
    digest = hashlib.sha256(data).hexdigest()
    path = lab.volume.bundle(digest)
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return digest


def failure(lab: Lab, digest: str) -> RunFailure:
    with pytest.raises(RunFailure) as caught:
        Bundles(lab.volume).objects(digest)
    return caught.value


def test_references_become_the_objects_that_they_name(lab: Lab) -> None:
    references = lab.put_bundle(formatting_func=user_code.as_chat, limit=3)
    config = {"additional_kwargs": references, "list": [references["limit"]], "plain": 1}
    resolved = UserCode(lab.volume).resolve(config, lab.job("run", {}))
    assert resolved["additional_kwargs"]["formatting_func"]({"asked": "a", "answered": "b"})["prompt"]
    assert (resolved["list"], resolved["plain"]) == ([3], 1)


def test_an_unknown_key_is_named(lab: Lab) -> None:
    reference = {"$ref": {"bundle": put(lab, {"format": 1, "python": HERE}), "key": "two", "label": "two"}}
    with pytest.raises(RunFailure, match=r"has no object 'two'; it has \['one'\]"):
        UserCode(lab.volume).resolve(reference, lab.job("run", {}))


def test_a_bundle_of_another_python_is_refused_naming_both(lab: Lab) -> None:
    refused = failure(lab, put(lab, {"format": 1, "python": "3.7"}, b"not even a pickle"))
    assert refused.reason == "PythonMismatch"
    assert "made with Python 3.7" in refused.message
    assert f"runs Python {HERE}" in refused.message


def test_a_bundle_of_other_packages_is_refused_naming_them(lab: Lab) -> None:
    refused = failure(lab, put(lab, {"format": 1, "python": HERE, "packages": {"torch": "1.0.0", "no-such": "1"}}))
    assert refused.reason == "PackageMismatch"
    assert "torch 1.0.0 there, " in refused.message
    assert "no-such" not in refused.message


def test_a_damaged_or_missing_bundle_is_named(lab: Lab) -> None:
    assert failure(lab, "0" * 64).reason == "BundleMissing"
    digest = put(lab, {"format": 1, "python": HERE})
    lab.volume.bundle(digest).write_bytes(b"{}\n")
    assert "does not have that digest" in failure(lab, digest).message
    assert "has format 2" in failure(lab, put(lab, {"format": 2, "python": HERE})).message


def test_a_module_that_the_worker_lacks_is_named(lab: Lab) -> None:
    body = b"cno_such_module\nfunction\n."
    refused = failure(lab, put(lab, {"format": 1, "python": HERE}, body))
    assert refused.reason == "BundleInvalid"
    assert "No module named 'no_such_module'" in refused.message


def test_a_failing_function_points_at_the_users_own_line() -> None:
    line = Path(user_code.__file__).read_text().splitlines().index('    return {"prompt": row["no such column"]}') + 1
    with pytest.raises(RunFailure) as caught:
        Guarded(user_code.raising, "formatting_func")({"question": "?"})
    assert caught.value.reason == "UserCodeError"
    head, *rest = caught.value.message.splitlines()
    assert head == f"formatting_func raised KeyError: 'no such column' at {user_code.__file__}:{line}, in raising"
    assert rest[-1] == "KeyError: 'no such column'"
