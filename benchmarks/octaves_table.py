"""A run of `benchmarks.octaves` as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from .octaves_points import PEERS
from .octaves_results import OctavesRun, Speed

METRIC_NAMES = {"psnr_rgb": "PSNR", "ms_ssim": "MS-SSIM"}


def table(run: OctavesRun) -> str:
    """Everything that a person looks at first, a line each."""
    lines = [*_rates(run), *_means(run)]
    if run.speed is not None:
        lines += _speed(run.speed)
    return "\n".join((*lines, *_verdicts(run), *run.notes))


def _rates(run: OctavesRun) -> Iterator[str]:
    for area, metric in dict.fromkeys((c.area, c.metric) for c in run.comparisons):
        yield ""
        yield f"bits at equal {METRIC_NAMES[metric]}, {area} (* not all of the peer's 0.3 to 2 bpp is in common)"
        yield f"{'':38}{'':12}" + "".join(f"{peer:>12}" for peer in PEERS)
        for subject in run.subjects:
            cells = []
            for peer in PEERS:
                key = (subject.name, peer, area, metric)
                found = next((c for c in run.comparisons if (c.subject, c.peer, c.area, c.metric) == key), None)
                if found is None or found.percent is None:
                    cells.append("-")
                else:
                    cells.append(f"{found.percent:+.1f} %{' ' if found.complete else '*'}")
            yield f"{subject.name:38}{subject.group:12}" + "".join(f"{cell:>12}" for cell in cells)
    for c in run.comparisons:
        if c.refused:
            yield f"{c.subject}, {c.peer}, {c.area}, {METRIC_NAMES[c.metric]}: {c.refused}"


def _means(run: OctavesRun) -> Iterator[str]:
    for area, metric in dict.fromkeys((m.area, m.metric) for m in run.means):
        rows = [m for m in run.means if (m.area, m.metric) == (area, metric)]
        yield ""
        yield f"means, equal {METRIC_NAMES[metric]}, {area}"
        for group in dict.fromkeys(m.group for m in rows):
            of_peer = {m.peer: m for m in rows if m.group == group}
            count = next(iter(of_peer.values())).of
            cells = "".join(f"{f'{of_peer[p].percent:+.1f} % ' if p in of_peer else '-':>12}" for p in PEERS)
            yield f"{group + f' ({count})':38}{'':12}{cells}"


def _speed(speed: Speed) -> Iterator[str]:
    yield ""
    yield f"encoding {speed.piece}, {speed.threads} threads"
    for row in speed.encode:
        if row.mpx_s is None:
            yield f"{row.who:20} {row.refused}"
            continue
        ratio = "" if row.ratio_to_avif is None else f"{row.ratio_to_avif:8.2f} x the faster AVIF"
        yield f"{row.who:20}{row.setting:14}{row.mpx_s.median:8.3f} Mpixel/s{ratio}"
    yield ""
    yield "views of 512 x 512 from a closed file: ms, times native, times OpenJPEG"
    for view in speed.views:
        yield f"{view.label:>8}{view.ms.median:9.1f}{view.to_native:8.2f}{view.to_openjpeg:8.2f}"
    yield f"OpenJPEG{speed.openjpeg_ms.median:9.1f}   at {speed.native_psnr_db:.2f} dB, the native views' pixels"
    yield f"the whole piece: ours {speed.bulk_mpx_s:.2f}, OpenJPEG {speed.openjpeg_bulk_mpx_s:.2f} Mpixel/s"
    rates = ", ".join(f"{name} {value:.0f}" for name, value in speed.msymbol_s.items())
    yield f"entropy coder, Msymbol/s a core: {rates}; networks: {speed.mac_per_px / 1000:.2f} kMAC a pixel"


def _verdicts(run: OctavesRun) -> Iterator[str]:
    yield ""
    yield f"{'':62}{'value':>9}{'must':>9}{'':8}{'aim':>9}"
    for bar in run.verdicts:
        value = "-" if bar.value is None else f"{bar.value:.2f}"
        aim = "" if bar.aim is None else f"{bar.aim:9g}  {'reached' if bar.aim_met else 'not yet'}"
        sign = ">=" if bar.above else "<="
        must = f"{sign}{bar.must:g}"
        yield f"{bar.what:62}{value:>9}{must:>9}  {'pass' if bar.met else 'MISS':6}{aim}  {bar.note}".rstrip()
    yield ""
