"""A slide goes in, a `.cinr` file comes out: scan, fit the network, fit every tile, write."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import inrwsi
from inrwsi.coding import tensors
from inrwsi.config import to_dict
from inrwsi.device import pick_device
from inrwsi.fields.cinr import CinrConfig, IntegerField, config_for_bpp
from inrwsi.fit.cinr import NetworkFit, Patch, fit_tile
from inrwsi.formats.header import AssociatedInfo, GridInfo, Header, SlideInfo
from inrwsi.formats.source import SlideSource
from inrwsi.formats.writer import ContainerWriter
from inrwsi.geometry import Rect, chunk_rect
from inrwsi.job import Job
from inrwsi.memory import give_back_free_pages
from inrwsi.options import EncodeOptions, EncodeReport, check_encodable
from inrwsi.progress import Progress
from inrwsi.tiles import pack_table
from inrwsi.tissue import glass_colour, is_blank, tissue_mask

OVERVIEW_PX = 1024
PREVIEW_PX = 512
SAMPLE_TILES = 16
BATCH = 2
NETWORK_STEPS_A_PASS = 60
CHECKPOINT_SECONDS = 20.0
Report = Callable[[Progress], None]


def encode(
    source: SlideSource,
    out: str | Path,
    options: EncodeOptions | None = None,
    *,
    progress: Report | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> EncodeReport:
    """Encode a slide.

    Args:
        source: an open slide (`formats.source.open_source`), 8 bits, 1 or 3 channels.
        out: the file to write, ending in `.cinr`. It appears whole, at the end.
        progress: called now and then with what is done.
        resume: go on with what an interrupted encoding of the same source and settings left in `OUT.work`.
        overwrite: replace an existing file, and begin again where an interrupted encoding lies.

    Raises:
        UsageError: the source or the options cannot be encoded, or the output cannot be written.
    """
    options, out = options or EncodeOptions(), Path(out)
    began = time.monotonic()
    check_encodable(source, out, options, overwrite=overwrite)
    device = pick_device(options.device)
    report = progress or (lambda _: None)
    overview = source.overview(OVERVIEW_PX)
    tissue = tissue_mask(overview, source.background)
    config = config_for_bpp(options.bpp, options.tile_px, source.channels, options.weight_bits)
    header = _header(source, config, options)
    job = Job(out, _about(source, overview, config, options), resume=resume, overwrite=overwrite)
    try:
        coder = _Coder(source, header, config, options, job, device, report)
        coder.scan(glass_colour(overview, source.background))
        weights = coder.fit_network(tissue)
        coder.fit_tiles(tissue)
        cinr_bytes = _write(source, out, header, weights, overview, job, options, report)
        coded = sum(not job.blank(n) for n in range(header.chunk_count))
        job.discard()
    finally:
        job.close()
    slide_px = source.width * source.height
    return EncodeReport(
        path=str(out),
        source_bytes=source.bytes_on_disk,
        cinr_bytes=cinr_bytes,
        slide_px=slide_px,
        tissue_px=round(float(tissue.mean()) * slide_px),
        blank_chunks=header.chunk_count - coded,
        coded_chunks=coded,
        seconds=time.monotonic() - began,
    )


def _header(source: SlideSource, config: CinrConfig, options: EncodeOptions) -> Header:
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
    return Header(
        slide=slide,
        grid=GridInfo(chunk_px=options.tile_px, octaves=(0,)),
        model=to_dict(config),
        metadata=dict(source.metadata),
        software=software,
    )


def _about(source: SlideSource, overview: np.ndarray, config: CinrConfig, options: EncodeOptions) -> dict[str, Any]:
    settings = asdict(options)
    settings["keep_associated"] = list(options.keep_associated)
    return {
        "source": f"{source.width}x{source.height}x{source.channels}, {sha256(overview.tobytes()).hexdigest()}",
        "software": f"inrwsi {inrwsi.__version__}",
        "model": to_dict(config),
        **settings,
    }


class _Coder:
    """The stages of one encoding; each goes on from what the job holds."""

    def __init__(
        self,
        source: SlideSource,
        header: Header,
        config: CinrConfig,
        options: EncodeOptions,
        job: Job,
        device: torch.device,
        report: Report,
    ) -> None:
        self.source, self.header, self.config, self.options = source, header, config, options
        self.job, self.device, self.report = job, device, report
        self.coded: list[int] = []
        self.field: IntegerField | None = None
        self.sampled: dict[int, np.ndarray] = {}
        self.fit: NetworkFit | None = None

    def _rect(self, number: int) -> Rect:
        _, ij = self.header.chunk_at(number)
        return chunk_rect(self.header.slide.l0_wh, self.header.grid.chunk_px, ij)

    def _pixels(self, number: int) -> np.ndarray:
        rect = self._rect(number)
        return self.source.read((rect.x, rect.y), (rect.w, rect.h))

    def scan(self, glass: tuple[int, ...] | None) -> None:
        """Find the blank chunks; the others are `coded`. `glass` is the slide's colour of it, where it shows any."""
        count = self.header.chunk_count
        for number in range(count):
            if number in self.job:
                if not self.job.blank(number):
                    self.coded.append(number)
                continue
            colour = None if glass is None else is_blank(self._pixels(number), glass)
            if colour is None:
                self.coded.append(number)
            else:
                self.job.put(number, bytes(colour), blank=True)
            self.report(Progress("scan", number + 1, count, "tiles", f"{len(self.coded)} with tissue"))

    def fit_network(self, tissue: np.ndarray) -> bytes:
        """Fit and freeze the network, or take it from the job. Returns the file's weights."""
        chosen = self._sample(tissue)
        tiles = [self._pixels(n) for n in chosen]
        fit = NetworkFit(
            self.config,
            self.options.tile_px,
            tiles,
            steps=NETWORK_STEPS_A_PASS * self.options.passes,
            batch=BATCH,
            seed=self.options.seed,
            device=self.device,
        )
        before = self.job.load_network()
        if before is not None:
            fit.restore(*before)
        saved = time.monotonic()
        seen = 0
        while fit.step_number < fit.steps:
            pixels, mse = fit.step()
            seen += pixels
            total = seen / 1e6 * fit.steps / fit.step_number
            self.report(Progress("network", total * fit.step_number / fit.steps, total, "Mpx", _db(mse)))
            if time.monotonic() - saved > CHECKPOINT_SECONDS or fit.step_number == fit.steps:
                self.job.save_network(*fit.state())
                saved = time.monotonic()
        frozen = fit.frozen()
        self.field = IntegerField(self.config, self.options.tile_px, frozen, self.device)
        self.sampled = {n: fit.table(i) for i, n in enumerate(chosen)}
        self.fit = fit
        return tensors.pack(frozen)

    def _sample(self, tissue: np.ndarray) -> list[int]:
        """Tiles for the network's fit: drawn at random from those with the most tissue, within the memory setting."""
        tile_bytes = self.options.tile_px**2 * self.source.channels + self.config.grid.parameter_count * 16
        count = max(1, min(SAMPLE_TILES, self.options.memory_mb * 2**20 // 4 // tile_bytes))
        numbers = self.coded or [0]
        shares = np.array([self._tissue_share(tissue, self._rect(n)) for n in numbers])
        rich = [n for n, share in zip(numbers, shares, strict=True) if share >= min(0.5, shares.max())]
        rng = np.random.default_rng(self.options.seed)
        return sorted(int(n) for n in rng.permutation(rich)[:count])

    def _tissue_share(self, tissue: np.ndarray, l0_rect: Rect) -> float:
        """Share of a rectangle that the tissue map (h, w) counts."""
        slide = self.header.slide
        h, w = tissue.shape
        x0, y0 = l0_rect.x * w // slide.width, l0_rect.y * h // slide.height
        x1 = max(x0 + 1, -(-(l0_rect.x + l0_rect.w) * w // slide.width))
        y1 = max(y0 + 1, -(-(l0_rect.y + l0_rect.h) * h // slide.height))
        return float(tissue[y0:y1, x0:x1].mean())

    def fit_tiles(self, tissue: np.ndarray) -> None:
        """Fit the table of every coded chunk that the job does not hold yet."""
        sizes = [self._tile_mpx(n) for n in self.coded]
        total, done = sum(sizes), 0.0
        for number, size in zip(self.coded, sizes, strict=True):
            if number not in self.job:
                for fitted, mse in self._fit_tile(number, tissue):
                    self.report(Progress("tiles", min(total, done + fitted), total, "Mpx", _db(mse)))
                give_back_free_pages()
            done += size

    def _tile_mpx(self, number: int) -> float:
        rect = self._rect(number)
        return rect.w * rect.h * self.options.passes / 1e6

    def _fit_tile(self, number: int, tissue: np.ndarray) -> Iterator[tuple[float, float]]:
        if self.field is None or self.fit is None:
            raise RuntimeError("tiles are fitted after the network")
        pixels = self._pixels(number)
        start = self.sampled.get(number)
        tile = self._rect(number)

        def busy(patch: Patch) -> bool:
            return self._tissue_share(tissue, Rect(tile.x + patch.x, tile.y + patch.y, patch.w, patch.h)) > 0

        steps = fit_tile(
            self.field,
            pixels,
            self.fit.start(pixels) if start is None else start,
            passes=self.options.passes,
            batch=BATCH,
            seed=(self.options.seed, number),
            busy=busy,
        )
        size, seen = self._tile_mpx(number), 0.0
        for fitted, mse, table in steps:
            seen += fitted / 1e6
            if table is not None:
                self.job.put(number, pack_table(table), blank=False)
            yield min(seen, size), mse


def _db(mse: float) -> str:
    return f"{10 * np.log10(255.0**2 / max(mse, 1e-9)):.2f} dB"


def _write(
    source: SlideSource,
    out: Path,
    header: Header,
    weights: bytes,
    overview: np.ndarray,
    job: Job,
    options: EncodeOptions,
    report: Report,
) -> int:
    """Assemble the file from the job, in index order: the same bytes in whatever order the chunks were done."""
    preview = _preview(overview) if max(header.slide.l0_wh) > 4 * PREVIEW_PX else None
    pictures, infos = [], []
    for name in options.keep_associated:
        pixels = source.read_associated(name)
        pictures.append(_image_bytes(pixels, "png"))
        infos.append(AssociatedInfo(name, pixels.shape[1], pixels.shape[0], "png"))
    whole = Header(
        slide=header.slide,
        grid=header.grid,
        model=header.model,
        preview_format="jpeg" if preview else None,
        associated=tuple(infos),
        metadata=header.metadata,
        software=header.software,
    )
    with ContainerWriter(out, whole, weights=weights, icc=source.icc, preview=preview, associated=pictures) as writer:
        for number, payload, blank in job.chunks():
            octave, ij = whole.chunk_at(number)
            if blank:
                writer.put_blank(octave, ij, tuple(payload))
            else:
                writer.put_chunk(octave, ij, payload)
            report(Progress("write", number + 1, whole.chunk_count, "tiles"))
        return writer.finish()


def _preview(overview: np.ndarray) -> bytes:
    by = -(-max(overview.shape[:2]) // PREVIEW_PX)
    h, w = overview.shape[0] // by * by, overview.shape[1] // by * by
    small = overview[: max(h, 1), : max(w, 1)]
    if by > 1 and h and w:
        small = small.reshape(h // by, by, w // by, by, -1).mean(axis=(1, 3)).round().astype(np.uint8)
    return _image_bytes(small, "jpeg")


def _image_bytes(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, kind, **({"quality": 80} if kind == "jpeg" else {"optimize": True}))
    return buffer.getvalue()
