"""Files made of other files: with more in them, or with a bit that is another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from inrwsi.formats.container import Container
from inrwsi.formats.header import AssociatedInfo
from inrwsi.formats.writer import ContainerWriter


def copied(
    source: Path,
    out: Path,
    *,
    icc: bytes | None = None,
    associated: Sequence[tuple[AssociatedInfo, bytes]] = (),
    **changes: Any,
) -> Path:
    """The same chunks, with a profile, associated images and other things in the header."""
    with Container.open(source) as held:
        infos = tuple(info for info, _ in associated)
        head = replace(held.header, associated=infos, preview_format=None, **changes)
        sections: dict[str, Any] = {"weights": held.weights(), "icc": icc, "associated": [raw for _, raw in associated]}
        with ContainerWriter(out, head, **sections) as writer:
            for number in range(head.chunk_count):
                at = head.chunk_at(number)
                chunk = held.chunk(*at)
                if chunk.payload is None:
                    writer.put_blank(*at, chunk.colour or ())
                else:
                    writer.put_chunk(*at, chunk.payload)
            writer.finish()
    return out


def flipped(source: Path, out: Path, kind: str) -> Path:
    """With a bit of the section `kind` flipped."""
    with Container.open(source) as held:
        offset, stored_bytes = next((o, n) for k, o, n, _ in held.sections() if k == kind)
    blob = bytearray(source.read_bytes())
    blob[offset + stored_bytes // 2] ^= 1
    out.write_bytes(blob)
    return out
