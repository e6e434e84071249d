"""The engine cannot be fooled: codecs broken on purpose are seen as broken, and wrong pixels end the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inrwsi.benchmarks import quality
from inrwsi.benchmarks.codecs import TILED, BrokenCodec, StillCodec
from inrwsi.benchmarks.fidelity_task import load_task
from inrwsi.benchmarks.plan import Plan
from inrwsi.benchmarks.results import Point
from inrwsi.benchmarks.run import Bench, run_all
from inrwsi.benchmarks.sampling import Picture, find_cells, sampled_picture
from inrwsi.benchmarks.viewer import views
from inrwsi.formats.source import SlideSource, open_source
from inrwsi.geometry import Rect
from inrwsi.sample import sample_region

SIDE = 512  # one region: every point costs a second of looking for nuclei


@pytest.fixture(scope="module")
def source() -> SlideSource:
    pixels = sample_region((800, 800), (SIDE, SIDE), size_wh=(2048, 2048), seed=1)
    return open_source(pixels, mpp_um=0.5, objective_power=20)


@pytest.fixture(scope="module")
def picture(source: SlideSource) -> Picture:
    return sampled_picture(source, find_cells(source), 1, seed=0)


@dataclass
class Raw:
    """A codec that stores samples as they are, apart from what a test has it do wrong on either side."""

    spoil: Callable[[np.ndarray], np.ndarray] = lambda x: x
    encoded: list[float] = field(default_factory=list)

    def codec(self, name: str = "raw", ladder: tuple[float, ...] = (1, 2, 3)) -> StillCodec:
        def encode(x: np.ndarray, value: float, _: int) -> bytes:
            self.encoded.append(value)
            return np.array(x.shape[:2], "<u2").tobytes() + x.tobytes()

        def decode(data: bytes, _: int) -> np.ndarray:
            h, w = np.frombuffer(data, "<u2", 2)
            return self.spoil(np.frombuffer(data, np.uint8, offset=4).reshape(h, w, 3).copy())

        return StillCodec(name, "samples as they are", "v={:g}", ladder, ladder, encode, decode, ("png",), (TILED,))


def point(picture: Picture, folder: Path, codec: StillCodec, value: float = 1) -> Point:
    return Bench(picture, Plan((codec,), True, 0, folder)).point(codec, TILED, value)


def noise(sigma: float) -> Callable[[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    return lambda x: (x + rng.normal(0, sigma, x.shape)).clip(0, 255).astype(np.uint8)


def blur(x: np.ndarray) -> np.ndarray:
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge").astype(int)
    parts = [padded[i : i + x.shape[0], j : j + x.shape[1]] for i in range(3) for j in range(3)]
    return (sum(parts) // 9).astype(np.uint8)


def test_what_is_as_it_was_is_lossless_and_its_size_is_the_file_s(picture: Picture, tmp_path: Path) -> None:
    found = point(picture, tmp_path, Raw().codec())
    assert found.lossless
    assert found.file_bytes == 16 + 8 + 4 + 3 * SIDE * SIDE
    assert found.bpp == pytest.approx(8 * found.file_bytes / SIDE**2)
    assert found.tissue_bpp == pytest.approx(8 * found.file_bytes / picture.tissue.sum())
    assert "psnr_rgb" not in found.metrics
    assert found.metrics["ssim"] == pytest.approx(1)
    assert found.metrics["nuclei_f1"] == 1
    assert found.metrics["ciede2000"] == 0


def test_psnr_is_of_the_decoded_file(picture: Picture, tmp_path: Path) -> None:
    found = point(picture, tmp_path, Raw(lambda x: x ^ 1).codec())
    assert found.metrics["psnr_rgb"] == pytest.approx(10 * np.log10(255**2))
    assert found.regions is not None
    assert found.regions.mse == (1,)
    assert found.regions.bytes == (4 + 3 * SIDE * SIDE,)
    assert not found.lossless


@pytest.mark.parametrize(
    ("spoil", "below_db"),
    [
        (lambda x: np.roll(x, 1, axis=1), 30),
        (lambda x: np.roll(x, 2, axis=0), 30),
        (blur, 32),
        (lambda x: x[..., ::-1], 25),
        (lambda x: np.flip(x, axis=0), 20),
        (lambda x: np.full_like(x, x.mean()), 25),
        (lambda x: np.minimum(x, 128), 20),
    ],
    ids=["shifted", "shifted down", "blurred", "BGR", "flipped", "mean colour", "cut at 128"],
)
def test_a_codec_that_is_broken_scores_below_an_honest_one(
    spoil: Callable[[np.ndarray], np.ndarray], below_db: float, picture: Picture, tmp_path: Path
) -> None:
    broken = point(picture, tmp_path, Raw(spoil).codec()).metrics
    honest = point(picture, tmp_path, Raw(noise(2)).codec("honest")).metrics
    assert broken["psnr_rgb"] < below_db < honest["psnr_rgb"]
    assert broken["worst1pct_psnr"] <= broken["psnr_rgb"]
    assert broken["ciede2000"] > 0.5 or broken["nuclei_f1"] < honest["nuclei_f1"]


def test_one_spoiled_corner_shows_in_the_worst_tiles(picture: Picture, tmp_path: Path) -> None:
    def spoil(x: np.ndarray) -> np.ndarray:
        x = x ^ 1
        x[:64, :64] = 0
        return x

    found = point(picture, tmp_path, Raw(spoil).codec()).metrics
    assert found["worst1pct_psnr"] < 15 < 20 < found["psnr_rgb"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda x: x[1:], r"512 x 512 pixels decodes to uint8 \(511, 512, 3\)"),
        (lambda x: x[..., 0], r"decodes to uint8 \(512, 512\)"),
        (lambda x: x.astype(np.float32), "decodes to float32"),
        (lambda x: np.frombuffer(b"", np.uint8).reshape(5), "does not decode: cannot reshape"),
    ],
    ids=["a row short", "grey", "floats", "raises"],
)
def test_what_is_not_the_picture_ends_the_run(
    spoil: Callable[[np.ndarray], np.ndarray], said: str, picture: Picture, tmp_path: Path
) -> None:
    with pytest.raises(BrokenCodec, match=said):
        point(picture, tmp_path, Raw(spoil).codec())
    assert list(tmp_path.iterdir()) == []


def test_another_size_in_the_file_ends_the_run(source: SlideSource, picture: Picture, tmp_path: Path) -> None:
    codec = Raw().codec()

    class Cropping(StillCodec):
        def encode(self, given: Picture, layout: str, value: float, path: Path) -> None:
            super().encode(replace(given, pixels=given.pixels[:256]), layout, value, path)

    cropping = Cropping(**{name: getattr(codec, name) for name in codec.__dataclass_fields__})
    with pytest.raises(BrokenCodec, match="the file says 512 x 256 pixels, the picture has 512 x 512"):
        point(picture, tmp_path, cropping)


def test_a_codec_cannot_change_what_the_others_are_given(source: SlideSource, tmp_path: Path) -> None:
    picture = sampled_picture(source, find_cells(source), 1, seed=0)
    codec = Raw().codec()

    class Tampering(StillCodec):
        def encode(self, given: Picture, layout: str, value: float, path: Path) -> None:
            given.pixels.flags.writeable = True
            given.pixels[0, 0, 0] ^= 1
            super().encode(given, layout, value, path)

    tampering = Tampering(**{name: getattr(codec, name) for name in codec.__dataclass_fields__})
    with pytest.raises(BrokenCodec, match="changed the pixels that all codecs are given"):
        point(picture, tmp_path, tampering)


def test_a_figure_that_is_not_a_number_ends_the_run(
    picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality.Tally, "metrics", lambda self: {"ssim": float("nan")})
    with pytest.raises(BrokenCodec, match="ssim is not a number"):
        point(picture, tmp_path, Raw().codec())


def test_a_run_goes_on_from_whole_points_only(source: SlideSource, picture: Picture, tmp_path: Path) -> None:
    raw = Raw(noise(3))
    codec = raw.codec()
    plan = Plan((codec,), True, 0, tmp_path / "partial")
    first = run_all(source, Bench(picture, plan), command="test")
    assert sorted(raw.encoded) == [1, 2, 2, 2, 3]
    raw.encoded.clear()
    again = run_all(source, Bench(picture, plan), command="test")
    assert raw.encoded == []
    assert [p.metrics for p in again.points] == [pytest.approx(p.metrics, rel=1e-6) for p in first.points]
    whole = next((tmp_path / "partial").glob("*.json"))
    whole.write_text(whole.read_text()[:-40])
    run_all(source, Bench(picture, plan), command="test")
    assert raw.encoded in ([1], [2, 2, 2], [3])
    raw.encoded.clear()
    other = sampled_picture(source, find_cells(source), 1, seed=0)
    other = replace(other, sample=replace(other.sample, sha256="0" * 64))
    assert Bench(other, plan).key(codec, TILED, 1) != Bench(picture, plan).key(codec, TILED, 1)
    assert codec.label(1) == "v=1"


def test_the_result_says_what_was_run(source: SlideSource, picture: Picture, tmp_path: Path) -> None:
    codecs = (Raw(noise(3)).codec("jpeg-420"), Raw(noise(2)).codec("webp"))
    result = run_all(source, Bench(picture, Plan(codecs, True, 0, tmp_path)), command="inrwsi bench x")
    original, *points = result.points
    assert (original.codec, original.file_bytes, original.lossless) == ("source", SIDE * SIDE * 3, True)
    assert original.bpp == 24
    assert [p.setting for p in points] == ["v=1", "v=2", "v=3"] * 2
    middle = points[1]
    assert middle.encode_mpx_s is not None
    assert middle.encode_mpx_s.repeats == 3
    assert middle.encode_mpx_s.min <= middle.encode_mpx_s.median <= middle.encode_mpx_s.max
    assert [(v.label, v.downsample, v.out_wh) for v in middle.views] == [
        ("20x", 1, (512, 512)),
        ("5x", 4, (128, 128)),
        ("thumbnail", 1, (512, 512)),
    ]
    thumbnail = middle.views[2]
    assert thumbnail.bytes_read == middle.file_bytes
    assert middle.views[0].bytes_read == 16 + 8 + 4 + 3 * 512 * 512
    assert points[0].views == ()
    # The same bits at another quality: nothing rises with the rate, and that is said.
    assert {row.refused for row in result.bd} == {"quality does not rise with the rate"}
    assert result.settings["codecs"] == {"jpeg-420": "samples as they are", "webp": "samples as they are"}
    assert result.versions["libpng"].startswith("1.")


def test_views_are_the_same_for_all_and_by_magnification(picture: Picture) -> None:
    picture = replace(picture, pixels=np.zeros((900, 2000, 3), np.uint8))
    a, b = views(picture, 3), views(picture, 3)
    assert a == b != views(picture, 4)
    assert all(Rect(0, 0, *picture.wh).intersect(w) == w for _, _, ws in a for w in ws)
    unknown = replace(picture, slide=replace(picture.slide, mpp_um=None, objective_power=None))
    assert [label for label, _, _ in views(unknown, 0)] == ["1:1", "1:2", "1:8", "thumbnail"]
    by_pixel = replace(picture, slide=replace(picture.slide, mpp_um=0.2528, objective_power=None))
    assert [(label, d) for label, d, _ in views(by_pixel, 0)][:3] == [("40x", 1), ("20x", 2), ("5x", 8)]


def test_a_task_is_asked_of_the_decoded_file(picture: Picture, tmp_path: Path) -> None:
    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack((x.mean(dim=(1, 2, 3)), x[:, 0].amax(dim=(1, 2)) * 0 + 0.5), 1)

    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.script(Mean()).save(str(tmp_path / "mean.pt"))
    plan = Plan((), True, 0, tmp_path / "partial", task=load_task(tmp_path / "mean.pt"))
    dark = Raw(lambda x: x // 4).codec()
    agreement = Bench(picture, plan).point(dark, TILED, 1).metrics["task_agreement"]
    same = Bench(picture, plan).point(Raw().codec("same"), TILED, 1).metrics["task_agreement"]
    assert same == 1
    assert agreement < 1
