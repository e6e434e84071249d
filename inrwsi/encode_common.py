"""What the encoders of all models share: the slide's facts, the sections beside the chunks, and the file's assembly."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import inrwsi
from inrwsi.formats import index, layout
from inrwsi.formats.header import AssociatedInfo, GridInfo, Header, SlideInfo
from inrwsi.formats.index import colour_struct
from inrwsi.formats.source import SlideSource
from inrwsi.formats.writer import ContainerWriter
from inrwsi.options import EncodeOptions, flag
from inrwsi.progress import Report

OVERVIEW_PX = 1024
PREVIEW_PX = 256  # as large as file managers show; 512 was 1 % of a file of 60 Mpx
PREVIEW_FROM_PX = 2048  # a smaller slide is its own preview


@dataclass(frozen=True)
class Task:
    """One encoding.

    Attributes:
        source: the open slide.
        out: the file to make.
        options: how.
        overview: (h, w, C) uint8 or uint16, the whole slide at `OVERVIEW_PX`.
        tissue: (h, w) bool, where the overview shows something.
        device: where networks run.
        report: takes the progress.
        resume, overwrite: what to do with what an earlier run left.
    """

    source: SlideSource
    out: Path
    options: EncodeOptions
    overview: np.ndarray
    tissue: np.ndarray
    device: torch.device
    report: Report
    resume: bool
    overwrite: bool

    @property
    def l0_wh(self) -> tuple[int, int]:
        return (self.source.width, self.source.height)


@dataclass(frozen=True)
class Outcome:
    """What a model's encoder made: chunks and bytes of the file, and what it measured on the way."""

    cinr_bytes: int
    blank_chunks: int
    coded_chunks: int
    psnr_db: float | None = None
    step: int | None = None


def header_of(task: Task, grid: GridInfo, model: dict[str, Any]) -> Header:
    """The header, but for the sections that `Sections` brings."""
    source = task.source
    slide = SlideInfo(
        width=source.width,
        height=source.height,
        channels=source.channels,
        bit_depth=source.bit_depth,
        background=tuple(source.background),
        mpp_um=source.mpp_um,
        mpp_source=source.mpp_source,
        objective_power=source.objective_power,
        objective_source=source.objective_source,
    )
    software = {"inrwsi": inrwsi.__version__, "torch": torch.__version__}
    return Header(slide=slide, grid=grid, model=model, metadata=dict(source.metadata), software=software)


def about(task: Task, model: dict[str, Any], settings: Any) -> dict[str, Any]:
    """What must be the same for an interrupted encoding to go on.

    Args:
        settings: the model's own, a dataclass.
    """
    source, options = task.source, task.options
    return {
        "source": f"{source.width}x{source.height}x{source.channels}, {sha256(task.overview.tobytes()).hexdigest()}",
        "software": f"inrwsi {inrwsi.__version__}",
        **{flag(name): value for name, value in asdict(settings).items()},
        "model": model,
        "--source-mpp": source.mpp_um and list(source.mpp_um),
        "--objective-power": source.objective_power,
        "--seed": options.seed,
        "--device": options.device,
        "--keep-associated": list(options.keep_associated),
    }


@dataclass(frozen=True)
class Sections:
    """What stands in a file beside header, weights and chunks."""

    icc: bytes | None
    preview: bytes | None
    associated: tuple[bytes, ...]
    infos: tuple[AssociatedInfo, ...]

    @classmethod
    def of(cls, task: Task) -> Sections:
        """Read and pack them."""
        preview = _preview(task.overview) if max(task.l0_wh) > PREVIEW_FROM_PX else None
        icc = task.source.icc or None  # a tag of nothing is no profile
        pictures, infos = [], []
        for name in task.options.keep_associated:
            pixels = task.source.read_associated(name)
            pictures.append(_image_bytes(pixels, "png"))
            infos.append(AssociatedInfo(name, pixels.shape[1], pixels.shape[0], "png"))
        return cls(icc, preview, tuple(pictures), tuple(infos))


def bytes_beside(header: Header, sections: Sections) -> int:
    """Of a file, about: all but payloads, weights and what the index says of each chunk."""
    stored = [layout.compress("HEAD", header.to_json())[1], sections.icc, sections.preview, *sections.associated]
    held = [part for part in stored if part is not None]
    pages = -(-header.chunk_count // index.PAGE_CHUNKS)
    start = layout.PREAMBLE.size + layout.SECTION.size * (len(held) + 1)
    return start + sum(map(len, held)) + index.overhead_bytes(pages)


def write_file(
    path: Path,
    header: Header,
    weights: bytes | None,
    sections: Sections,
    chunks: Iterable[tuple[int, bytes, bool]],
    report: Callable[[int, int], None],
) -> int:
    """Assemble a file; returns its size in bytes.

    Args:
        chunks: (number, payload, False), or (number, the colour's bytes, True) of a blank one, each chunk once. In
            order of number: the same bytes in whatever order they were made.
        report: takes chunks written and chunks in all.
    """
    whole = replace(header, preview_format="jpeg" if sections.preview else None, associated=sections.infos)
    with ContainerWriter(
        path, whole, weights=weights, icc=sections.icc, preview=sections.preview, associated=sections.associated
    ) as writer:
        for number, payload, blank in chunks:
            octave, ij = whole.chunk_at(number)
            if blank:
                writer.put_blank(octave, ij, colour_struct(whole.slide).unpack(payload))
            else:
                writer.put_chunk(octave, ij, payload)
            report(number + 1, whole.chunk_count)
        return writer.finish()


def db(mse: float) -> str:
    """Mean squared error in 255ths of the largest sample, as PSNR for a person."""
    return f"{10 * np.log10(255.0**2 / max(mse, 1e-9)):.2f} dB"


def _preview(overview: np.ndarray) -> bytes:
    overview = _as_picture(overview)
    by = -(-max(overview.shape[:2]) // PREVIEW_PX)
    h, w = overview.shape[0] // by * by, overview.shape[1] // by * by
    small = overview[: max(h, 1), : max(w, 1)]
    if by > 1 and h and w:
        small = small.reshape(h // by, by, w // by, by, -1).mean(axis=(1, 3)).round().astype(np.uint8)
    return _image_bytes(small, "jpeg")


def _as_picture(overview: np.ndarray) -> np.ndarray:
    """(h, w, 1 or 3) uint8 for a person: each channel of 16 bits from its darkest to its brightest, many as a mean."""
    if overview.dtype != np.uint8:
        low, high = overview.min(axis=(0, 1)), overview.max(axis=(0, 1))
        overview = np.rint((overview - low) * (255 / np.maximum(high - low, 1.0))).astype(np.uint8)
    if overview.shape[2] not in (1, 3):
        overview = np.rint(overview.mean(axis=2, keepdims=True)).astype(np.uint8)
    return overview


def _image_bytes(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    plain = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    Image.fromarray(plain).save(buffer, kind, **({"quality": 80} if kind == "jpeg" else {"optimize": True}))
    return buffer.getvalue()
