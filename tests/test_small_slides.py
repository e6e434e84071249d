"""Pictures of some pixels: spots brighter than any mean, sizes near the least there is, and what is refused at once."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from inrwsi.cli.main import main
from inrwsi.decode import Decoder
from inrwsi.errors import DiskFull, UsageError
from inrwsi.formats import writer
from inrwsi.sample import sample_region, write_sample
from tests.octaves_encoded import _Stop, make, psnr, stopping


def small(out: Path) -> None:
    make(np.zeros((8, 8, 3), np.uint8), out.with_suffix(".cinr"), quality=60, effort="fast")


def sample(out: Path) -> None:
    write_sample(out, size_wh=(64, 64))


@pytest.mark.parametrize(
    ("write", "writes"), [(small, "inrwsi.job.write_whole"), (sample, "inrwsi.sample._write_pyramid")]
)
def test_a_disk_that_is_full_from_the_first_byte(
    write: Callable[[Path], None], writes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writes, full)
    with pytest.raises(DiskFull, match=r"cannot be written.*No space left on device") as told:
        write(tmp_path / "a.tif")
    assert told.value.exit_code == 1
    assert not (tmp_path / "a.tif").exists()


def pixels_of(path: Path, wh: tuple[int, int]) -> np.ndarray:
    with Decoder(path, device="cpu") as decoder:
        return decoder.read_region((0, 0), wh)


@pytest.mark.parametrize("spot", [0, 255])
@pytest.mark.parametrize(("side", "begin", "end"), [(32, 15, 18), (32, 0, 2), (64, 28, 35)])
def test_spots_whose_low_pass_leaves_the_range(spot: int, side: int, begin: int, end: int, tmp_path: Path) -> None:
    """A filter with a gain above 1 takes a white spot on black further from the mean than 500 grey levels."""
    pixels = np.full((side, side, 3), 255 - spot, np.uint8)
    pixels[begin:end, begin:end] = spot
    make(pixels, tmp_path / "a.cinr", quality=60, effort="fast")
    assert psnr(pixels, pixels_of(tmp_path / "a.cinr", (side, side))) > 36


def test_a_flat_picture_has_the_sizes_that_it_has(tmp_path: Path) -> None:
    """What stands beside payloads counts: of a small file that is nearly all."""
    pixels = np.full((50, 40, 3), (200, 150, 180), np.uint8)
    make(pixels, tmp_path / "a.cinr", quality=60, effort="fast")
    size_bytes = (tmp_path / "a.cinr").stat().st_size
    make(pixels, tmp_path / "b.cinr", size_bytes=size_bytes, effort="fast")
    assert (tmp_path / "b.cinr").stat().st_size == pytest.approx(size_bytes, rel=0.02)
    with pytest.raises(UsageError, match=r"the nearest that was found is about (\d+) bytes") as told:
        make(pixels, tmp_path / "c.cinr", size_bytes=1, effort="fast")
    about = int(str(told.value).split("about ")[1].split()[0])
    assert about == pytest.approx(size_bytes, rel=0.05)


def test_a_folder_is_refused_before_anything_slow(tmp_path: Path) -> None:
    (tmp_path / "a.cinr").mkdir()
    with pytest.raises(UsageError, match=r"a\.cinr: is a folder; give a file name"):
        make(np.zeros((8, 8, 3), np.uint8), tmp_path / "a.cinr", quality=60, effort="fast", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.cinr"]


def test_the_name_is_on_the_disk_before_the_work_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = os.fsync, []

    def heard(descriptor: int) -> None:
        real(descriptor)
        if os.path.samestat(os.fstat(descriptor), tmp_path.stat()):
            seen.append(((tmp_path / "a.cinr").exists(), (tmp_path / "a.cinr.work").exists()))

    monkeypatch.setattr(writer.os, "fsync", heard)
    make(sample_region((900, 900), (64, 48), size_wh=(2048, 2048), seed=1), tmp_path / "a.cinr", quality=60)
    assert seen == [(True, True)]
    assert not (tmp_path / "a.cinr.work").exists()


def test_a_fit_goes_on_with_the_memory_that_it_began_with(tmp_path: Path) -> None:
    """Which decides how much of a slide is fitted to; where nothing is fitted it may change."""
    pixels = sample_region((900, 900), (300, 280), size_wh=(2048, 2048), seed=1)
    for effort in ("fast", "default"):
        out = tmp_path / f"{effort}.cinr"
        with pytest.raises(_Stop):
            make(pixels, out, quality=60, effort=effort, memory_mb=512, progress=stopping("scan", 1))
        more = {"quality": 60, "effort": effort, "memory_mb": 1024, "resume": True}
        if effort == "fast":
            make(pixels, out, **more)
        else:
            with pytest.raises(UsageError, match="was begun with --memory-mb 512, now it is with --memory-mb 1024"):
                make(pixels, out, **more)


@pytest.mark.parametrize("command", ["decode", "export", "encode"])
def test_a_full_disk_names_the_output(command: str, tmp_path: Path) -> None:
    """Exit code 1, the machine's: a limit on the sizes of files stands for the disk."""
    pixels = sample_region((900, 900), (300, 280), size_wh=(2048, 2048), seed=1)
    make(pixels, tmp_path / "a.cinr", quality=90, effort="fast")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    out = tmp_path / {"decode": "b.png", "export": "b.tif", "encode": "b.cinr"}[command]
    arguments = {
        "decode": ["decode", tmp_path / "a.cinr", "-o", out],
        "export": ["export", tmp_path / "a.cinr", out],
        "encode": ["encode", tmp_path / "a.png", "-o", out, "--effort", "fast", "--quality", "95"],
    }[command]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        result = CliRunner().invoke(main, [str(a) for a in [*arguments, "-q"]])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert (result.exit_code, result.stderr) == (1, f"inrwsi: {out}: cannot be written (File too large)\n")
    assert not out.exists()
