"""Model `engp`: `ngp` with an MLP of 8 layers of 256 (the extended NGP of Lee et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from inrwsi.fields.models.ngp import NgpConfig


@dataclass(frozen=True, kw_only=True)
class EngpConfig(NgpConfig):
    """As `NgpConfig`, larger."""

    name: str = "engp"

    network_preset: ClassVar[dict[str, Any]] = {"width": 256, "hidden": 8}


CONFIG = EngpConfig
