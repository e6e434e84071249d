"""Ten thousand damaged files: a clear error or a decode, never anything else, in bounded time and memory."""

from __future__ import annotations

import io
import resource
import time
from pathlib import Path

import numpy as np

from inrwsi.coding import tensors
from inrwsi.config import to_dict
from inrwsi.decode import Decoder
from inrwsi.errors import CorruptFile, UnsupportedVersion
from inrwsi.formats.header import AssociatedInfo, GridInfo, Header, SlideInfo
from inrwsi.formats.writer import ContainerWriter
from inrwsi.tiles import pack_payload
from tests.format.mutate import mutants
from tests.test_cinr import CONFIG, random_table, random_weights

MUTANTS = 10_000


def _small_file(path: Path) -> bytes:
    """A slide of 2 x 2 tiles, one of them blank, with every kind of section."""
    slide = SlideInfo(100, 90, 3, 8, (240, 241, 242), (0.5, 0.5), "user", 20.0, "user")
    picture = AssociatedInfo("thumbnail", 4, 4, "png")
    header = Header(slide, GridInfo(64, (0,)), to_dict(CONFIG), "png", (picture,), {}, {"inrwsi": "test"})
    weights = tensors.pack(random_weights(CONFIG))
    with ContainerWriter(path, header, weights=weights, icc=b"icc " * 9, preview=b"png", associated=[b"png"]) as writer:
        for n, ij in enumerate(((0, 0), (1, 0), (0, 1))):
            writer.put_chunk(0, ij, pack_payload(CONFIG, {"table": random_table(CONFIG, n).numpy().astype(np.int8)}))
        writer.put_blank(0, (1, 1), (250, 250, 250))
        writer.finish()
    return path.read_bytes()


def _view(blob: bytes) -> bytes:
    """Pixels of all four tiles, native and reduced, and what else a reader reads."""
    with Decoder(io.BytesIO(blob), device="cpu") as decoder:
        container = decoder.container
        rest = [
            container.icc(),
            container.preview(),
            *(container.associated(a.name) for a in container.header.associated),
        ]
        pixels = decoder.read_region((60, 60), (8, 8)), decoder.read_region((56, 56), (16, 16), step=2.0)
        return b"".join([*map(bytes, pixels), *(r or b"" for r in rest)])


def test_ten_thousand_damaged_files(tmp_path: Path) -> None:
    blob = _small_file(tmp_path / "small.cinr")
    want = _view(blob)
    outcomes = {"right": 0, "changed": 0, "CorruptFile": 0, "UnsupportedVersion": 0}
    slowest, longest = 0.0, 0
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for mutant in mutants(blob, MUTANTS, seed=2026):
        began = time.process_time()
        try:
            outcome = "right" if _view(mutant) == want else "changed"
        except (CorruptFile, UnsupportedVersion) as error:
            outcome = type(error).__name__
            longest = max(longest, len(str(error)))
        outcomes[outcome] += 1
        slowest = max(slowest, time.process_time() - began)
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1024
    assert sum(outcomes.values()) == MUTANTS
    assert outcomes["CorruptFile"] > MUTANTS // 2
    assert outcomes["right"] > 0  # a header's free text may change, and the picture does not
    assert slowest < 2.0
    assert longest < 600  # a sentence, whatever a damaged file holds
    assert grown_mb < 1024
