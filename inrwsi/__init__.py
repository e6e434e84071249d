"""inrwsi: a neural codec for whole-slide images."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from inrwsi.errors import BackendUnavailable, CorruptFile, InrwsiError, UnsupportedVersion, UsageError

__version__ = "0.1.0"
__all__ = [
    "BackendUnavailable",
    "CinrSlide",
    "CorruptFile",
    "InrwsiError",
    "UnsupportedVersion",
    "UsageError",
    "__version__",
    "data",
    "encode",
    "open_slide",
]

_SLIDE = ("CinrSlide", "open_slide")


def __getattr__(name: str) -> Any:
    # Torch, OpenSlide and numba take seconds to import: only who asks for what needs them waits.
    if name == "encode":
        return importlib.import_module("inrwsi.encode")
    if name == "data":
        return importlib.import_module("inrwsi.data")
    if name in _SLIDE:
        return getattr(importlib.import_module("inrwsi.slide"), name)
    raise AttributeError(f"module 'inrwsi' has no attribute {name!r}")


class _Encode(ModuleType):
    """The module `inrwsi.encode`, which is also the function in it: `inrwsi.encode(...)` and `inrwsi.encode.encode`."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        return self.encode(*args, **settings)


class _Package(ModuleType):
    """The import of `inrwsi.encode`, by whomever, binds the module here; this makes it callable, whenever that is."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "encode" and type(value) is ModuleType:
            value.__class__ = _Encode
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
