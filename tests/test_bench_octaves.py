"""The bench of model `octaves`: which pixels, what counts as bytes, and runs that go on."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imagecodecs
import numpy as np
import pytest
from click.testing import CliRunner

from inrwsi.benchmarks import octaves, octaves_openjpeg, octaves_points, octaves_subjects
from inrwsi.benchmarks.codecs import STILL_CODECS, TILED, WHOLE, BrokenCodec
from inrwsi.benchmarks.octaves_points import PEERS, PeerCoder, Store, bytes_beside, finest_bytes, package_digest
from inrwsi.benchmarks.octaves_results import CROP, HELD_OUT, NEVER, SLIDE, TISSUE, TRAINED, FilePoint, OctavesRun
from inrwsi.benchmarks.octaves_subjects import IMAGES, Pixels, crop, crops, slide, tissue_middle
from inrwsi.benchmarks.octaves_table import table
from inrwsi.config import from_dict
from inrwsi.errors import UsageError
from inrwsi.fit import prior
from inrwsi.geometry import Rect
from inrwsi.sample import sample_region
from tests.octaves_run import OURS, point, speed, subject

GLASS = 244
JPEG = next(c for c in STILL_CODECS if c.name == "jpeg-420")


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    """(700, 640, 3): generated tissue without glass."""
    return sample_region((900, 900), (640, 700), size_wh=(2048, 2048), seed=1)


@pytest.fixture(scope="module")
def slide_path(tissue: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1300 x 1100: tissue in four of the nine tiles, glass elsewhere."""
    pixels = np.full((1100, 1300, 3), GLASS, np.uint8)
    pixels[100:800, 200:840] = tissue
    path = tmp_path_factory.mktemp("slide") / "made.png"
    path.write_bytes(imagecodecs.png_encode(pixels))
    return path


# Which pixels.


def test_groups_are_those_of_the_prior() -> None:
    groups = {name: octaves_subjects.group_of(name) for name in IMAGES}
    assert octaves_subjects.group_of("slide-20x.tiff") == TRAINED
    assert len(groups) == len(IMAGES) == 16
    assert {n for n, g in groups.items() if g == TRAINED} == set(prior.TRAINED_ON)
    assert {n for n, g in groups.items() if g == HELD_OUT} == set(prior.HELD_OUT)
    assert {n for n, g in groups.items() if g == NEVER} == {f"bone-marrow-HE-{n}_01.png" for n in ("0001", "0008")}


def test_a_crop_is_the_middle_square(tissue: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "liver-HE.png"
    path.write_bytes(imagecodecs.png_encode(tissue))
    found = crop(path, 600, halve=False)
    assert (found.facts.l0_xy, found.facts.wh, found.facts.area_px) == ((20, 50), (600, 600), {CROP: 360000})
    assert np.array_equal(found.rgb, tissue[50:650, 20:620])
    assert crop(path, 1536, halve=False).facts.wh == (640, 640)
    with pytest.raises(ValueError, match="read-only"):
        found.rgb[0, 0] = 0


def test_a_halved_crop_lies_about_the_tissue(slide_path: Path) -> None:
    found = crop(slide_path, 300, halve=True)
    # The tissue's middle is at (520, 450) of the slide, so at (260, 225) of its half.
    assert found.facts.l0_xy == pytest.approx((110, 75), abs=12)
    assert found.facts.halved
    assert tissue_middle(np.full((64, 96, 3), GLASS, np.uint8)) == (48, 32)


def test_images_are_those_of_the_set(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--images nothing\.png: is not of the set; there are: CMU-1"):
        list(crops(tmp_path, ["nothing.png"], 64))
    with pytest.raises(UsageError, match=r"liver-HE\.png: no such file"):
        list(crops(tmp_path, ["liver-HE.png"], 64))


def test_a_slide_has_two_areas(slide_path: Path) -> None:
    ours, theirs = slide(slide_path, None, 0)
    assert ours is theirs
    assert ours.areas[SLIDE] == tuple(range(9))
    assert ours.areas[TISSUE] == (0, 1, 3, 4)
    assert ours.facts.area_px == {SLIDE: 1300 * 1100, TISSUE: 1024 * 1024}
    with ours.open() as source:
        assert source.name == "made.png"


def test_a_sample_is_of_tissue_and_the_same_for_the_peers(slide_path: Path) -> None:
    ours, theirs = slide(slide_path, 3, 5)
    assert list(ours.areas) == list(theirs.areas) == [TISSUE]
    assert theirs.rgb.shape == (3 * 512, 512, 3)
    for mine, other in zip(ours.areas[TISSUE], theirs.areas[TISSUE], strict=True):
        a, b = ours.blocks[mine], theirs.blocks[other]
        assert np.array_equal(ours.rgb[a.y : a.y + a.h, a.x : a.x + a.w], theirs.rgb[b.y : b.y + b.h, b.x : b.x + b.w])
    assert slide(slide_path, 3, 5)[0].areas == ours.areas
    assert "3 tiles, drawn with seed 5; 4 of its 9 tiles" in ours.facts.about


# What counts as bytes.


def test_a_tiled_peer_pays_for_the_area_alone(slide_path: Path, tmp_path: Path) -> None:
    pixels, _ = slide(slide_path, None, 0)
    found = Store(tmp_path / "new").point(pixels, PeerCoder(JPEG, TILED), 50)
    sizes = []
    for rect in pixels.blocks:
        tile = np.ascontiguousarray(pixels.rgb[rect.y : rect.y + rect.h, rect.x : rect.x + rect.w])
        sizes.append(len(imagecodecs.jpeg8_encode(tile, 50, subsampling="420", optimize=True)))
    of_slide, of_tissue = found.over(SLIDE), found.over(TISSUE)
    assert found.file_bytes == of_slide.payload_bytes == 16 + 9 * 8 + sum(sizes)
    assert of_tissue.payload_bytes == 16 + 4 * 8 + sum(sizes[n] for n in (0, 1, 3, 4))
    assert of_tissue.bpp == pytest.approx(8 * of_tissue.payload_bytes / 1024**2)
    assert of_slide.psnr_db > of_tissue.psnr_db
    assert list((tmp_path / "new").glob("*.coded")) == []


def test_jpeg_2000_in_tiles_spends_where_it_saves_most(
    tissue: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(octaves_openjpeg, "TARGETS_DB", tuple(range(24, 50, 2)))
    pixels = np.full((512, 768, 3), GLASS, np.uint8)
    pixels[:, :544] = tissue[:512, :544]  # the second tile is an edge: an eighth of it is tissue
    path = tmp_path / "made.png"
    path.write_bytes(imagecodecs.png_encode(pixels))
    whole, _ = slide(path, None, 0)
    sloped = next(c for c in octaves_openjpeg.tiled_peers() if c.name == "jpeg2000")
    assert isinstance(sloped, octaves_openjpeg.SlopeTiles)
    store = Store(tmp_path / "points")
    plain = [store.point(whole, PeerCoder(sloped.codec, TILED), v) for v in (32, 36)]
    best = [store.point(whole, sloped, v) for v in (24, 28, 32, 36, 40)]
    assert best[0].setting == "slope of 24 dB"
    assert len(sloped.known) <= 2 * 13
    log_bpp = np.interp(
        [p.over(TISSUE).psnr_db for p in plain],
        [p.over(TISSUE).psnr_db for p in best],
        [np.log(p.over(TISSUE).bpp) for p in best],
    )
    assert all(log_bpp < [np.log(p.over(TISSUE).bpp) for p in plain])


def test_finest_bytes_are_of_the_chunks_inside() -> None:
    sizes = {(i, j): 10 * i + j + 1 for i in range(4) for j in range(4)}
    container = SimpleNamespace(
        header=SimpleNamespace(grid=SimpleNamespace(chunk_px=256)),
        entries=lambda octave: iter((ij, n, False) for ij, n in sizes.items()),
    )
    own, every = finest_bytes(container, [Rect(512, 0, 512, 512), Rect(0, 512, 256, 256)])
    assert own == sum(sizes[ij] for ij in ((2, 0), (3, 0), (2, 1), (3, 1), (0, 2)))
    assert every == sum(sizes.values())


def test_bytes_beside_are_of_chunks_that_nothing_inside_needs() -> None:
    held = {0: [(0, 0), (1, 0), (2, 0), (3, 0), (0, 3)], 1: [(0, 0), (1, 0), (1, 1)], 2: [(0, 0)]}
    sizes = {(octave, ij): 10 ** (3 * octave + n) for octave, every in held.items() for n, ij in enumerate(every)}
    container = SimpleNamespace(
        header=SimpleNamespace(grid=SimpleNamespace(chunk_px=256, octaves=(0, 1, 2))),
        entries=lambda octave: iter((ij, sizes[octave, ij], False) for ij in held[octave]),
    )
    # A tile over chunks 2 and 3 of octave 0, and one of a pixel in chunk (0, 3).
    found = bytes_beside(container, [Rect(512, 0, 512, 512), Rect(255, 768, 1, 1)])
    assert found == sum(sizes[key] for key in ((0, (0, 0)), (0, (1, 0)), (1, (0, 0)), (1, (1, 1))))
    assert bytes_beside(container, [Rect(0, 0, 1024, 1024)]) == 0


def test_what_is_not_the_picture_is_refused(tissue: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "liver-HE.png"
    path.write_bytes(imagecodecs.png_encode(tissue))
    broken = replace(JPEG, decoder=lambda data, threads: imagecodecs.jpeg8_decode(data).astype(np.float32))
    with pytest.raises(BrokenCodec, match=r"liver-HE\.png, jpeg-420 q=50: decodes to float32"):
        Store(tmp_path).point(crop(path, 64, halve=False), PeerCoder(broken, WHOLE), 50)


# Curves.


@dataclass(frozen=True)
class Ladder:
    """Stands for a coder: rate and quality follow from the value, nothing is coded."""

    name: str = "made"
    suffix: str = ".made"
    kept: bool = False

    def facts(self) -> Any:
        return [self.name]

    def label(self, value: float) -> str:
        return f"{value:g}"


def test_a_curve_reaches_both_ends_and_no_further(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[float] = []

    def measured(pixels: Pixels, coder: Any, value: float, path: Path) -> FilePoint:
        asked.append(value)
        return point("s", "made", CROP, value / 10, 30 + value)

    monkeypatch.setattr(octaves_points, "measure", measured)
    pixels = Pixels(subject("s", TRAINED), np.zeros((8, 8, 3), np.uint8), (Rect(0, 0, 8, 8),), {CROP: (0,)})
    ladder = tuple(range(1, 40, 2))
    coder: Any = Ladder()
    found = Store(tmp_path).curve(pixels, coder, ladder, CROP, 0.3, 2.0)
    assert [p.over(CROP).bpp * 10 for p in found] == pytest.approx(sorted(asked))
    assert min(asked) == 3
    assert max(asked) == 21
    before = len(asked)
    assert Store(tmp_path).curve(pixels, coder, ladder, CROP, 0.3, 2.0) == found
    assert len(asked) == before


def test_a_point_is_kept_with_its_file_where_it_is_asked_for(tissue: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "liver-HE.png"
    path.write_bytes(imagecodecs.png_encode(tissue))
    pixels, store = crop(path, 64, halve=False), Store(tmp_path / "points")
    kept = replace(PeerCoder(JPEG, WHOLE), kept=True)
    found = store.point(pixels, kept, 50)
    assert store.file(pixels, kept, 50).stat().st_size == found.file_bytes
    store.file(pixels, kept, 50).unlink()
    assert store.point(pixels, kept, 50).figures == found.figures
    assert store.file(pixels, kept, 50).exists()


def test_comments_do_not_change_the_digest_and_code_does() -> None:
    def digest(source: str) -> str:
        return octaves_points.ast.dump(octaves_points._without_docstrings(source))

    plain = "def f(x):\n    return x + 1\n"
    assert digest('"""About."""\ndef f(x):\n    """More."""\n    # why\n    return x + 1\n') == digest(plain)
    assert digest(plain.replace("1", "2")) != digest(plain)
    assert package_digest() == package_digest()


# The whole of it.


@dataclass(frozen=True)
class Fake(PeerCoder):
    """JPEG 4:4:4 in the place of ours."""

    effort: str = "fast"

    @property
    def name(self) -> str:
        return f"octaves {self.effort}"


@pytest.fixture
def faked(tissue: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two images; ours is a fake, the peers are the quick ones, results go elsewhere."""
    codec = next(c for c in STILL_CODECS if c.name == "jpeg-444")
    monkeypatch.setattr(octaves, "OurCoder", lambda effort, tune, **rest: Fake(codec, WHOLE, effort=effort))
    monkeypatch.setattr("inrwsi.fields.octaves_prior.current_sha256", lambda: "0" * 64)
    for name in ("jpegxl", "avif"):
        monkeypatch.delitem(PEERS, name)
    monkeypatch.setattr(octaves, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(octaves, "PARTIAL", tmp_path / "partial")
    for number, name in enumerate(("liver-HE.png", "kidney-pale-HE.png")):
        (tmp_path / name).write_bytes(imagecodecs.png_encode(np.ascontiguousarray(tissue[number * 200 :][:400, :400])))
    return tmp_path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(octaves.main, [*map(str, arguments)])


def test_a_run_ends_in_a_table_and_json(faked: Path) -> None:
    which = ["--set", "crops", "--slides", faked, "--no-speed", "--images", "liver-HE.png", "kidney-pale-HE.png"]
    before = run(*which, "--peers-only")
    assert before.exit_code == 0, before.output
    made = {p.name: p.stat().st_mtime_ns for p in (faked / "partial" / "octaves_crops").iterdir()}
    assert made
    assert not any("octaves-fast" in name for name in made)
    found = run(*which)
    assert found.exit_code == 0, found.output
    after = {p.name: p.stat().st_mtime_ns for p in (faked / "partial" / "octaves_crops").iterdir()}
    assert {n: t for n, t in after.items() if n in made} == made
    out = faked / "partial" / "octaves_crops_part.json"
    assert found.stdout.endswith(f"{out}\n")
    result = from_dict(OctavesRun, json.loads(out.read_text()))
    assert [s.group for s in result.subjects] == [TRAINED, HELD_OUT]
    assert {p.codec for p in result.points} == {*PEERS, OURS}
    jpeg = [m for m in result.means if (m.peer, m.metric, m.group) == ("jpeg-420", "psnr_rgb", "all")]
    assert len(jpeg) == 1
    assert jpeg[0].count == 2
    assert "held out (1)" in found.stdout
    assert "bits at equal PSNR, fast, crops, all, jpeg-420, %" in found.stdout
    assert "octaves --set crops --effort fast --images liver-HE.png" in result.command
    assert table(replace(result, speed=speed())).count("Mpixel/s") >= 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--set", "slide"), "--slide None: is not there; give a slide"),
        (("--set", "slide", "--slide", __file__, "--quick"), "--images and --quick are of --set crops"),
        (("--set", "crops", "--tiles", 9), "--slide and --tiles are of --set slide"),
        (("--set", "crops", "--slides", "nowhere"), "--slides nowhere: is not there"),
    ],
)
def test_mistakes_end_in_a_sentence(arguments: tuple[object, ...], sentence: str) -> None:
    found = run(*arguments)
    assert found.exit_code == 2
    assert sentence in found.stderr


@pytest.mark.parametrize(
    ("which", "slide", "tune", "name"),
    [
        ("crops", None, "balanced", "octaves_crops"),
        ("slide", "slide-20x.tiff", "ms-ssim", "octaves_slide_ms_ssim"),
        ("slide", "slide-40x.tiff", "balanced", "octaves_slide_40x"),
    ],
)
def test_results_of_slides_do_not_replace_each_other(which: str, slide: str | None, tune: str, name: str) -> None:
    rest = {"slides": Path(), "images": (), "tiles": None, "qualities": (), "peers_only": False, "no_speed": True}
    asked = octaves.Asked(which=which, slide=slide and Path(slide), effort="default", tune=tune, quick=False, **rest)
    assert asked.name == name
