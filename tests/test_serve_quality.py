"""What a view costs and how good it is."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from inrwsi.decode import Decoder
from inrwsi.errors import UsageError
from inrwsi.formats.container import Chunk, Container
from inrwsi.geometry import Rect
from inrwsi.serve import app
from inrwsi.serve.quality import View, octaves_decoded, view_bits, view_psnr_db
from inrwsi.serve.slides import OpenCinr, OpenSource
from tests.conftest import Encoded
from tests.fake_octaves import FakeCoder, FakeFile, fake_file
from tests.served import served

WH = (1101, 699)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> FakeFile:
    return fake_file(tmp_path_factory.mktemp("quality") / "noise.cinr", WH, blank=[(0, (2, 1))])


@pytest.fixture
def slide(noise: FakeFile, monkeypatch: pytest.MonkeyPatch) -> OpenCinr:
    monkeypatch.setattr("inrwsi.octave_tiles.ChunkCoder", FakeCoder)
    return OpenCinr(noise.path, "cpu", 1 << 26)


VIEWS = [
    (Rect(0, 0, 1101, 699), 1.0),
    (Rect(0, 0, 1101, 699), 2.0),
    (Rect(0, 0, 1101, 699), 4.0),
    (Rect(0, 0, 1101, 699), 300.0),
    (Rect(256, 256, 256, 256), 1.0),
    (Rect(300, 10, 213, 300), 1.0),
    (Rect(512, 0, 512, 512), 2.0),
    (Rect(512, 0, 512, 512), 4.0),
    (Rect(600, 200, 400, 400), 3.1),
    (Rect(1100, 698, 1, 1), 8.0),
]


def share(file: FakeFile, octave: int, ij: tuple[int, int], l0: Rect) -> float:
    """Of the slide's pixels under a chunk, the part that is in `l0`."""
    side = 256 << octave
    chunk = Rect(ij[0] * side, ij[1] * side, side, side).intersect(Rect(0, 0, *file.wh))
    seen = chunk.intersect(l0)
    return 0.0 if seen.empty else seen.w * seen.h / (chunk.w * chunk.h)


@pytest.mark.parametrize(("l0", "downsample"), VIEWS)
def test_bits_are_of_the_chunks_that_a_decoder_reads(
    slide: OpenCinr, noise: FakeFile, monkeypatch: pytest.MonkeyPatch, l0: Rect, downsample: float
) -> None:
    """A decoder that has nothing in memory reads what is counted and, past the view's edge, what is not in view."""
    read = set()
    chunk = Container.chunk

    def noted(self: Container, octave: int, chunk_ij: tuple[int, int]) -> Chunk:
        read.add((octave, chunk_ij))
        return chunk(self, octave, chunk_ij)

    monkeypatch.setattr(Container, "chunk", noted)
    with Decoder(noise.path, device="cpu") as decoder:
        decoder.read_region((l0.x, l0.y), (l0.w, l0.h), out_wh=None, step=downsample)
    view = View(l0, downsample)
    octaves = octaves_decoded(slide.header, view)
    assert {octave for octave, _ in read} == set(octaves)
    shares = {key: share(noise, *key, l0) for key in noise.payloads if key[0] in octaves}
    counted = {key for key, value in shares.items() if value > 0}
    # The decoder rounds the view to whole output pixels; of a step that does not divide it they may end earlier.
    if (l0.w % downsample, l0.h % downsample) == (0, 0) or (l0.w, l0.h) == WH:
        assert counted <= read
    assert view_bits(slide, view) == pytest.approx(sum(8 * len(noise.payloads[k]) * shares[k] for k in counted))


def test_bits_of_views_add_up_to_the_files(slide: OpenCinr, noise: FakeFile) -> None:
    """However the slide is cut into views, and however far they are zoomed in; of a blank chunk there are none."""
    xs, ys = (0, 1, 255, 300, 700, 1100, 1101), (0, 128, 256, 257, 699)
    cut = [Rect(x, y, r - x, b - y) for x, r in itertools.pairwise(xs) for y, b in itertools.pairwise(ys)]
    for downsample in (0.3, 1.0, 2.0, 5.0):
        octaves = octaves_decoded(slide.header, View(cut[0], downsample))
        payloads = 8 * sum(len(noise.payloads[key]) for key in noise.payloads if key[0] in octaves)
        assert sum(view_bits(slide, View(l0, downsample)) for l0 in cut) == pytest.approx(payloads, rel=1e-12)
    whole = View(Rect(0, 0, *WH), 1.0)
    assert view_bits(slide, whole) / whole.pixels == pytest.approx(
        8 * sum(map(len, noise.payloads.values())) / (WH[0] * WH[1])
    )


def test_psnr_is_of_the_views_pixels(noise: FakeFile, slide: OpenCinr, tmp_path: Path) -> None:
    worse = noise.octaves[0].astype(int)
    worse[:, 600:] += np.where(worse[:, 600:] < 128, 10, -10)
    Image.fromarray(worse.astype(np.uint8)).save(tmp_path / "source.png", compress_level=1)
    source = OpenSource(tmp_path / "source.png")
    ten = 20 * np.log10(255 / 10)
    assert view_psnr_db(slide, source, View(Rect(0, 0, 600, 699), 1.0)) == 100.0
    assert view_psnr_db(slide, source, View(Rect(600, 0, 501, 699), 1.0)) == pytest.approx(ten)
    assert view_psnr_db(slide, source, View(Rect(500, 0, 200, 699), 1.0)) == pytest.approx(ten + 10 * np.log10(2))
    # Past native as at native; means of pixels of both at other scales.
    assert view_psnr_db(slide, source, View(Rect(600, 0, 400, 400), 0.25)) == pytest.approx(ten)
    assert view_psnr_db(slide, source, View(Rect(0, 0, 598, 699), 2.0)) == 100.0
    assert view_psnr_db(slide, source, View(Rect(0, 0, 590, 690), 1.7)) == 100.0


def test_psnr_is_against_pixels_much_finer_than_the_view(noise: FakeFile, slide: OpenCinr, tmp_path: Path) -> None:
    """A scanner's own level is another picture, which nobody encoded: this one's is grey."""
    with tifffile.TiffWriter(tmp_path / "source.tif") as tiff:
        how = {"photometric": "rgb", "tile": (128, 128), "metadata": None}
        tiff.write(noise.octaves[0], **how)
        tiff.write(np.full((349, 550, 3), 128, np.uint8), subfiletype=1, **how)
    source = OpenSource(tmp_path / "source.tif")
    assert source.downsample_of(2) == 2
    assert (source.read(Rect(0, 0, 20, 20), 2.0) == 128).all()
    assert view_psnr_db(slide, source, View(Rect(0, 0, 598, 698), 2.0)) == 100.0


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_turned_source_is_read_as_it_was_encoded(
    orientation: int, noise: FakeFile, slide: OpenCinr, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    back = np.rot90(noise.octaves[0], {3: 2, 6: 1}[orientation])
    Image.fromarray(np.ascontiguousarray(back)).save(tmp_path / "source.png", exif=exif, compress_level=1)
    source = OpenSource(tmp_path / "source.png")
    assert view_psnr_db(slide, source, View(Rect(0, 0, 400, 400), 1.0)) == 100.0
    app([noise.path], source=tmp_path / "source.png")  # whose size is that of the slide


def test_of_a_large_view_the_middle_is_measured(noise: FakeFile, slide: OpenCinr, tmp_path: Path) -> None:
    wrong = 255 - noise.octaves[0]
    wrong[:, 38:-38] = noise.octaves[0][:, 38:-38]  # 1025 columns
    Image.fromarray(wrong).save(tmp_path / "source.png", compress_level=1)
    source = OpenSource(tmp_path / "source.png")
    assert view_psnr_db(slide, source, View(Rect(0, 0, *WH), 1.0)) == 100.0
    assert view_psnr_db(slide, source, View(Rect(0, 0, 1000, 699), 1.0)) < 30


def test_the_answer(noise: FakeFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inrwsi.octave_tiles.ChunkCoder", FakeCoder)
    path = tmp_path / "s.cinr"
    path.write_bytes(noise.path.read_bytes())
    where = "/quality/s?x=256.4&y=256&w=255.2&h=256&downsample=1"
    keys = ((0, (1, 1)), *((octave, (0, 0)) for octave in range(1, 8)))
    bits = sum(8 * len(noise.payloads[key]) * share(noise, *key, Rect(256, 256, 256, 256)) for key in keys)
    want = {"bits": round(bits), "bpp": pytest.approx(bits / 65536)}
    with served(app([path])) as server:
        answer = server.get(where)
        assert json.loads(answer.body) == {**want, "psnr_db": None}
        assert answer.headers["cache-control"] == "no-cache"
        past_native = json.loads(server.get(where.replace("=1", "=.1")).body)
        assert past_native == {**want, "psnr_db": None}
        wrong = {
            "x=1&y=2&w=3&h=4": b"downsample is None; it should be a number\n",
            "x=1&y=2&w=a&h=4&downsample=1": b"w is 'a'; it should be a number\n",
            "x=1&y=2&w=3&h=nan&downsample=1": b"x, y, w, h and downsample should be numbers, the last above 0\n",
            "x=1&y=2&w=3&h=4&downsample=0": b"x, y, w, h and downsample should be numbers, the last above 0\n",
            "x=1e308&y=2&w=1e308&h=4&downsample=1": b"x, y, w and h should be within 2199023255552 pixels of "
            b"the slide's corner\n",
            "x=1&y=2&w=3&h=4&downsample=1e300": b"the step is 1e+300 level-0 pixels a pixel; it should be from 1e-6 to "
            b"2e12\n",
            "x=1101&y=2&w=3&h=4&downsample=1": b"nothing of the slide, which is 1101 x 699 pixels, is in x, y, w, h\n",
        }
        for query, sentence in wrong.items():
            answer = server.get(f"/quality/s?{query}")
            assert (answer.status, answer.body) == (400, sentence)
        assert server.get("/quality/t?x=0&y=0&w=9&h=9&downsample=1").status == 404
    Image.fromarray(noise.octaves[0]).save(tmp_path / "s.png", compress_level=1)
    with served(app([path])) as server:
        assert json.loads(server.get(where).body) == {**want, "psnr_db": 100.0}


def test_views_are_cut_to_the_slide() -> None:
    assert View.of(WH, (-50.5, 10.5, 60.6, 1e9), 2.0) == View(Rect(0, 10, 11, 689), 2.0)
    assert View(Rect(0, 0, 40, 20), 2.0).pixels == 200
    assert View(Rect(0, 0, 40, 20), 0.5).pixels == 800
    with pytest.raises(UsageError, match="nothing of the slide"):
        View.of(WH, (5, 5, 0, 5), 1.0)


def test_a_file_of_one_octave(encoded: Encoded) -> None:
    """Of model `cinr` every view is made of tiles of level 0, whatever its scale."""
    slide = OpenCinr(encoded.path, "cpu", 1 << 24)
    columns, rows = slide.header.grid_wh(0)
    ((_, found),) = slide.decoder.container.payload_sizes(0, 0, columns * rows)
    sizes = found.reshape(rows, columns)
    for downsample in (0.5, 1.0, 4.0):
        assert view_bits(slide, View(Rect(0, 0, 200, 140), downsample)) == pytest.approx(8 * sizes.sum())
        assert view_bits(slide, View(Rect(64, 64, 64, 64), downsample)) == pytest.approx(8 * sizes[1, 1])
        assert view_bits(slide, View(Rect(96, 64, 16, 16), downsample)) == pytest.approx(8 * sizes[1, 1] / 16)
    assert sizes[:, :3].min() > 0
