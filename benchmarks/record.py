"""How the record of a benchmark begins; `results.Record` is what it begins with."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from .probe import machine


def head(command: str, versions: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a `Record`, of a run that ends now on this machine."""
    created_utc = datetime.now(UTC).isoformat(timespec="seconds")
    return {"command": command, "created_utc": created_utc, "machine": machine(), "versions": dict(versions)}
