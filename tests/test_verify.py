"""`compare` and `inrwsi verify --against`: figures that others compute too, the worst tiles and where they are."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import inrwsi.compare
from inrwsi import UsageError
from inrwsi.cli.main import main
from inrwsi.compare import DIFFERENCE_GAIN, TILE_PX, compare, worst_tiles_picture
from inrwsi.progress import Progress
from tests.fake_octaves import FakeCoder, FakeFile, fake_file

WH = (1101, 699)
WRONG = (700, 530, 8)  # where one tile of the slide is off, and by how much


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> FakeFile:
    """Chunk (2, 2) of octave 0 is glass."""
    return fake_file(tmp_path_factory.mktemp("verify") / "noise.cinr", WH, blank=[(0, (2, 2))])


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inrwsi.octave_tiles.ChunkCoder", FakeCoder)
    monkeypatch.setattr(FakeCoder, "seconds", 0.0)


@pytest.fixture(scope="module")
def source(noise: FakeFile) -> np.ndarray:
    """What was decoded, a little off everywhere, more so in one tile: (h, w, 3) uint8."""
    pixels = noise.octaves[0].astype(int) + np.random.default_rng(3).integers(-2, 3, noise.octaves[0].shape)
    x, y, by = WRONG
    pixels[y : y + 64, x : x + 64] += by
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def picture(source: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "slide.png"
    Image.fromarray(source).save(path)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.mark.parametrize(("band", "rows"), [(4096, 512), (512, 256)])
def test_figures_are_those_of_the_whole(
    band: int, rows: int, noise: FakeFile, source: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it is cut into strips: PSNR in integers, SSIM of every window once."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    monkeypatch.setattr(inrwsi.compare, "BAND_PX", band)
    monkeypatch.setattr(inrwsi.compare, "STRIP_ROWS", rows)
    seen: list[Progress] = []
    report = compare(noise.path, source, device="cpu", progress=seen.append)
    decoded = noise.octaves[0]
    assert report.psnr_db == pytest.approx(peak_signal_noise_ratio(source, decoded), abs=1e-9)
    luma = [pixels.astype(np.float64) @ (0.299, 0.587, 0.114) for pixels in (source, decoded)]
    _, maps = structural_similarity(
        *luma, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    assert report.ssim == pytest.approx(maps[5:-5, 5:-5].mean(), abs=1e-6)
    assert 0.9 < report.ssim < 0.9999
    assert report.l0_wh == WH
    assert seen[-1].done == pytest.approx(seen[-1].total) == pytest.approx(1101 * 699 / 1e6)


def test_worst_tiles(noise: FakeFile, source: np.ndarray) -> None:
    report = compare(noise.path, source, worst=3, device="cpu")
    xy = [tile.l0_xy for tile in report.worst]
    assert xy[0] == (512, 512)
    assert len(set(xy)) == 3
    errors = {}
    for y in range(0, WH[1], TILE_PX):
        for x in range(0, WH[0], TILE_PX):
            at = np.s_[y : y + TILE_PX, x : x + TILE_PX]
            mse = np.square(source[at].astype(float) - noise.octaves[0][at]).mean()
            errors[x, y] = 10 * math.log10(255**2 / mse)
    assert xy == sorted(errors, key=errors.__getitem__)[:3]
    assert [tile.psnr_db for tile in report.worst] == pytest.approx(sorted(errors.values())[:3])
    first = report.worst[0]
    assert np.array_equal(first.source, source[512:, 512:768])
    assert np.array_equal(first.decoded, noise.octaves[0][512:, 512:768])
    assert compare(noise.path, source, worst=0, device="cpu").worst == ()


def test_no_error_at_all(noise: FakeFile) -> None:
    report = compare(noise.path, noise.octaves[0], worst=2, device="cpu")
    assert (report.psnr_db, report.ssim) == (math.inf, pytest.approx(1.0, abs=1e-6))
    assert [(tile.l0_xy, tile.psnr_db) for tile in report.worst] == [((0, 0), math.inf), ((256, 0), math.inf)]


def test_a_slide_smaller_than_a_window(tmp_path: Path) -> None:
    tiny = fake_file(tmp_path / "tiny.cinr", (40, 9), channels=1)
    report = compare(tiny.path, tiny.octaves[0] ^ 1, device="cpu")
    assert report.psnr_db == pytest.approx(20 * math.log10(255))
    assert math.isnan(report.ssim)
    assert worst_tiles_picture(report.worst).mode == "RGB"
    Image.fromarray(tiny.octaves[0][..., 0]).save(tmp_path / "tiny.png")
    result = run("verify", tiny.path, "--against", tmp_path / "tiny.png", "--worst", 0, "-q")
    assert "PSNR inf dB, too small for SSIM, glass and all" in result.stdout


def test_the_picture_shows_both_and_their_difference(noise: FakeFile, source: np.ndarray) -> None:
    report = compare(noise.path, source, worst=2, device="cpu")
    panes = np.asarray(worst_tiles_picture(report.worst))
    assert panes.shape == (2 * (256 + 14 + 4) + 4, 3 * 260 + 4, 3)
    tile = report.worst[0]
    h = len(tile.source)
    rows = np.s_[18 : 18 + h]
    assert np.array_equal(panes[rows, 4:260], tile.source)
    assert np.array_equal(panes[rows, 264:520], tile.decoded)
    want = 128 + DIFFERENCE_GAIN * (tile.decoded.astype(int) - tile.source)
    assert np.array_equal(panes[rows, 524:780], np.clip(want, 0, 255))


def test_other_slides_are_refused(noise: FakeFile, source: np.ndarray) -> None:
    want = (
        r"has 1100 x 699 pixels with 3 channels of 8 bits, but .*noise.cinr 1101 x 699 pixels with 3 .*give the slide"
    )
    with pytest.raises(UsageError, match=want):
        compare(noise.path, source[:, 1:], device="cpu")
    with pytest.raises(UsageError, match="with 1 channels of 8 bits, but"):
        compare(noise.path, source[..., :1], device="cpu")


# ---- the command


def test_command(noise: FakeFile, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "worst.png"
    arguments = ("verify", noise.path, "--against", picture, "--worst", 3, "--device", "cpu")
    result = run(*arguments, "--worst-tiles", out)
    assert result.exit_code == 0, result.output
    report = compare(noise.path, picture, worst=3, device="cpu")
    first, figures, _, _, *tiles = result.stdout.splitlines()
    assert first.startswith("ok: ")
    size = f"{1101 * 699 / 1e6:.2f} Mpx"
    said = f"PSNR {report.psnr_db:.2f} dB, SSIM {report.ssim:.4f}, glass and all; {size}"
    assert figures == f"against {picture}: {said}"
    assert tiles[0].split() == ["512", "512", f"{report.worst[0].psnr_db:.2f}"]
    assert len(tiles) == 3
    assert f"compare: 0.77 of 0.77 Mpx, {report.psnr_db:.2f} dB" in result.stderr
    with Image.open(out) as shown:
        assert np.array_equal(np.asarray(shown), np.asarray(worst_tiles_picture(report.worst)))
    assert [path.name for path in tmp_path.iterdir()] == ["worst.png"]
    again = run(*arguments, "--worst-tiles", out)
    assert again.exit_code == 2
    assert "is there already" in again.stderr
    assert run(*arguments, "--worst-tiles", out, "--overwrite", "-q").stderr == ""


def test_damage_is_told_and_nothing_compared(noise: FakeFile, picture: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.cinr"
    raw = bytearray(noise.path.read_bytes())
    payload = noise.payloads[0, (0, 0)]
    raw[raw.index(payload) + 40] ^= 1
    damaged.write_bytes(raw)
    result = run("verify", damaged, "--against", picture, "--worst-tiles", tmp_path / "worst.png")
    assert result.exit_code == 3
    assert "octave 0, column 0, row 0" in result.stdout
    assert "PSNR" not in result.output
    assert not (tmp_path / "worst.png").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--worst-tiles", "worst.png"), "--worst-tiles needs a slide to compare with; give --against too"),
        (("--against", "slide.png", "--worst-tiles", "worst.png", "--worst", 0), "give a number of tiles to show"),
        (("--against", "slide.png", "--worst-tiles", "worst.gif"), "should end in .png"),
        (("--against", "missing.svs"), "missing.svs: no such file"),
    ],
)
def test_mistakes(arguments: tuple[object, ...], sentence: str, noise: FakeFile) -> None:
    result = run("verify", noise.path, *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
