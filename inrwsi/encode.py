"""A slide goes in, a `.cinr` file comes out: the checks and the report that all models share, and the choice of one."""

from __future__ import annotations

import time
from pathlib import Path

from inrwsi.device import pick_device
from inrwsi.encode_common import OVERVIEW_PX, Outcome, Task
from inrwsi.errors import naming
from inrwsi.formats.source import SlideSource
from inrwsi.options import EncodeOptions, EncodeReport, check_encodable
from inrwsi.progress import Report
from inrwsi.tissue import tissue_mask


def _octaves(task: Task) -> Outcome:
    # Importing it compiles its entropy coder, which other models need not wait for.
    from inrwsi.encode_octaves import encode

    return encode(task)


def _field(task: Task) -> Outcome:
    from inrwsi.encode_fields import encode

    return encode(task)


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
        source: an open slide (`formats.source.open_source`): 1 or 3 channels of 8 bits, or with a model that is fitted
            up to 16 of 8 or 16 bits.
        out: the file to write, ending in `.cinr`. It appears whole, at the end.
        progress: called now and then with what is done.
        resume: go on with what an interrupted encoding of the same source and settings left in `OUT.work`.
        overwrite: replace an existing file, and begin again where an interrupted encoding lies.

    Raises:
        UsageError: the source or the options cannot be encoded, the target cannot be reached, or the output cannot be
            written.
    """
    options, out = options or EncodeOptions(), Path(out)
    began = time.monotonic()
    check_encodable(source, out, options, overwrite=overwrite)
    device = pick_device(options.device)
    overview = source.overview(OVERVIEW_PX)
    tissue = tissue_mask(overview, source.background)
    report = progress or (lambda _: None)
    task = Task(source, out, options, overview, tissue, device, report, resume, overwrite)
    with naming(out):
        outcome = (_octaves if options.model == "octaves" else _field)(task)
    slide_px = source.width * source.height
    return EncodeReport(
        path=str(out),
        source_bytes=source.bytes_on_disk,
        cinr_bytes=outcome.cinr_bytes,
        slide_px=slide_px,
        tissue_px=round(float(tissue.mean()) * slide_px),
        blank_chunks=outcome.blank_chunks,
        coded_chunks=outcome.coded_chunks,
        seconds=time.monotonic() - began,
        psnr_db=outcome.psnr_db,
        step=outcome.step,
    )
