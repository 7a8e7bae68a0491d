"""Python state trees as JSON beside one safetensors file: exact, and without pickle."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

TREE = "state.json"
TENSORS = "state.safetensors"


@dataclass
class Frozen:
    """A state tree taken at one moment: later changes of what it was made from do not reach it.

    Attributes:
        tree: What JSON can hold, with a name in place of each tensor.
        tensors: Copies of the tensors, on the CPU, by those names.
    """

    tree: Any
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def take(cls, state: Any) -> Frozen:
        """Copy a tree of dicts, lists, tuples, numbers, strings, tensors and arrays.

        Raises:
            TypeError: If something else is in it, naming where.
        """
        frozen = cls(None)
        frozen.tree = frozen._encode(state, "state")
        return frozen

    def thaw(self) -> Any:
        """Return the tree as it was."""
        return self._decode(self.tree)

    def write(self, directory: Path) -> None:
        """Write the tree's two files into a directory."""
        (directory / TREE).write_text(json.dumps(self.tree))
        save_file(self.tensors, directory / TENSORS)

    @classmethod
    def read(cls, directory: Path) -> Frozen:
        """Read what `write` wrote."""
        return cls(json.loads((directory / TREE).read_text()), load_file(directory / TENSORS))

    def _encode(self, value: Any, where: str) -> Any:
        if isinstance(value, torch.Tensor):
            self.tensors[where] = value.detach().to("cpu", copy=True).contiguous()
            return {"$tensor": where}
        if isinstance(value, np.ndarray):
            return {"$array": self._encode(torch.from_numpy(value.astype(np.int64)), where), "dtype": str(value.dtype)}
        if isinstance(value, (list, tuple)):
            items = [self._encode(item, f"{where}.{index}") for index, item in enumerate(value)]
            return items if isinstance(value, list) else {"$tuple": items}
        if isinstance(value, Mapping):
            pairs = [[_scalar(key, where), self._encode(item, f"{where}.{key}")] for key, item in value.items()]
            plain = all(isinstance(key, str) and not key.startswith("$") for key in value)
            return dict(pairs) if plain else {"$dict": pairs}
        return _scalar(value, where)

    def _decode(self, value: Any) -> Any:  # noqa: PLR0911 - one return a form
        if isinstance(value, list):
            return [self._decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        match value:
            case {"$tensor": name}:
                return self.tensors[name]
            case {"$array": array, "dtype": dtype}:
                return self._decode(array).numpy().astype(dtype)
            case {"$tuple": items}:
                return tuple(self._decode(items))
            case {"$dict": pairs}:
                return {key: self._decode(item) for key, item in pairs}
            case _:
                return {key: self._decode(item) for key, item in value.items()}


def _scalar(value: Any, where: str) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, str, int, float)):
        return value
    raise TypeError(f"{where}: a {type(value).__name__} cannot be saved")
