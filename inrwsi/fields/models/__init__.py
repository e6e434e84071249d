"""The models that are fitted by descent: one file each, whose name is the model's (`conv_inr.py` is `conv-inr`).

A file has `CONFIG`, a subclass of `fields.field.FieldConfig`. Nothing else has to name it: the command line, the
container, decoding and the benchmarks find it here. docs/adding-a-model.md adds one.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inrwsi.fields.field import FieldConfig


def model_names() -> tuple[str, ...]:
    """Of all of them, in alphabetical order. Imports none."""
    return tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)))


def config_class(name: str) -> type[FieldConfig]:
    """The config of a model; KeyError for a name that is not in `model_names`."""
    if name not in model_names():
        raise KeyError(name)
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    config: type[FieldConfig] = module.CONFIG
    return config
