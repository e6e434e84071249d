"""tiny-cuda-nn, where it is installed: to check the hash grid against the implementation it follows.

It is on no package index, and importing it without CUDA raises `EnvironmentError`: nothing is imported before a
caller asks.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from types import ModuleType
from typing import Any

from inrwsi.errors import BackendUnavailable
from inrwsi.fields.encodings import HashGridConfig


@lru_cache(maxsize=1)
def _probe() -> tuple[ModuleType | None, str]:
    try:
        return importlib.import_module("tinycudann"), ""
    except ImportError as error:
        return None, f"tinycudann is not installed ({error})"
    except OSError as error:
        return None, f"tinycudann cannot be used here ({error})"


def available() -> bool:
    """Whether tiny-cuda-nn can be imported; asked once a process."""
    return _probe()[0] is not None


def why_not() -> str:
    """Why `available` is False, as a clause; empty where it is True."""
    return _probe()[1]


def build_encoding(config: HashGridConfig) -> Any:
    """tiny-cuda-nn's module for the same grid.

    Its `params` is the table of `encodings.hash_encode`, flat: level, entry, feature. It takes (N, 2) float32 on
    CUDA and gives (N, levels * features) float16.

    Raises:
        BackendUnavailable: tiny-cuda-nn cannot be imported.
    """
    module, reason = _probe()
    if module is None:
        raise BackendUnavailable(reason)
    settings = {
        "otype": "HashGrid",
        "n_levels": config.levels,
        "n_features_per_level": config.features,
        "log2_hashmap_size": config.log2_table,
        "base_resolution": config.base_resolution,
        "per_level_scale": config.per_level_scale,
        "interpolation": "Linear",
    }
    return module.Encoding(2, settings)
