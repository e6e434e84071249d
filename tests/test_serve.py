"""The server's answers: lists, tiles of both slides, conditional requests, and what it refuses."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from openslide.deepzoom import DeepZoomGenerator
from PIL import Image

from inrwsi import CinrSlide, UsageError
from inrwsi.formats.writer import ContainerWriter
from inrwsi.serve import app
from inrwsi.serve.deepzoom import OVERLAP_PX, TILE_PX, DeepZoom
from inrwsi.serve.options import ServeOptions
from tests.fake_octaves import BACKGROUND, FakeCoder, FakeFile, fake_file, header
from tests.served import Served, jpeg, served

WH = (1101, 699)


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inrwsi.octave_tiles.ChunkCoder", FakeCoder)
    monkeypatch.setattr(FakeCoder, "seconds", 0.0)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> FakeFile:
    """`a b%.cinr`, with its level 0 beside it as `a b%.png`, and a file that is no slide."""
    file = fake_file(tmp_path_factory.mktemp("slides") / "a b%.cinr", WH)
    Image.fromarray(file.octaves[0]).save(file.path.with_suffix(".png"), compress_level=1)
    file.path.with_suffix(".json").write_text("{}")
    return file


@pytest.fixture
def server(noise: FakeFile) -> Iterator[Served]:
    with served(app([noise.path.parent])) as running:
        yield running


# ---- which slides there are


def test_lists(server: Served, noise: FakeFile) -> None:
    size = noise.path.stat().st_size
    answer = server.get("/slides.json")
    want = {"id": "a b%", "name": "a b%.cinr", "width": 1101, "height": 699, "mpp_um": None, "objective_power": None}
    want |= {"file_bytes": size, "bpp": 8 * size / (1101 * 699), "source": True}
    assert json.loads(answer.body) == [want]
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert json.loads(server.get("/slides/a%20b%25.json").body) == want
    assert "access-control-allow-origin" not in server.get("/slides.json", {"Origin": "http://x.org"}).headers


def test_pages(server: Served) -> None:
    index, viewer = server.get("/"), server.get("/view/a%20b%25")
    for page in (index, viewer):
        assert page.status == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["content-security-policy"].startswith("default-src 'self'")
    assert b"view/a%20b%25" in index.body
    assert b"a b%.cinr" in viewer.body
    script = server.get("/static/viewer.js")
    assert (script.status, script.headers["content-type"]) == (200, "text/javascript; charset=utf-8")


def test_no_request_leaves_the_folder(server: Served, noise: FakeFile) -> None:
    outside = fake_file(noise.path.parent.parent / "outside.cinr", (40, 30))
    for slide in ("../outside", "..%2foutside", "%2e%2e%2foutside", str(outside.path)[:-5].replace("/", "%2f"), "nope"):
        for path in (f"/slides/{slide}.json", f"/dz/{slide}.dzi", f"/dz/{slide}_files/0/0_0.jpeg", f"/view/{slide}"):
            assert server.get(path).status == 404
        assert server.get(f"/iiif/{slide}/full/max/0/default.jpg").status == 404
    for path in ("/static/../page.py", "/static/..%2fpage.py", "/static/%2e%2e/page.py", "/static/", "/dz/"):
        assert server.get(path).status == 404
    assert server.get("/slides/nope.json").body == b"there is no slide 'nope'\n"


def test_sources_that_cannot_be(noise: FakeFile, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    Image.new("RGB", (40, 31)).save(other)
    with pytest.raises(
        UsageError, match=r"other.png: is 40 x 31 pixels, and .* is 1101 x 699; it cannot be its source"
    ):
        app([noise.path], source=other)
    with pytest.raises(UsageError, match=r"no.png: no such file; --source should be the slide that was encoded"):
        app([noise.path], source=tmp_path / "no.png")
    with pytest.raises(UsageError, match=r"b%.json: not an image that can be read; .*; --source should be"):
        app([noise.path], source=noise.path.with_suffix(".json"))
    small = fake_file(tmp_path / "small.cinr", (40, 30))
    with pytest.raises(UsageError, match=r"a source is given for 2 slides; give it with one \.cinr file"):
        app([noise.path, small.path], source=other)
    other.rename(tmp_path / "small.png")  # beside a slide, what cannot be its source is left out, and said
    library = app([small.path]).state.library
    assert not library.facts()[0].source
    assert "it cannot be its source" in library.skipped[0]


# ---- Deep Zoom


@pytest.mark.parametrize("wh", [(1, 1), (256, 256), (257, 3), (1101, 699), (100_001, 70_003)])
def test_tiles_are_numbered_as_openslide_numbers_them(wh: tuple[int, int]) -> None:
    class Slide:
        level_dimensions, level_downsamples, dimensions = (wh,), (1.0,), wh
        properties: dict[str, str] = {}  # noqa: RUF012

        def get_best_level_for_downsample(self, downsample: float) -> int:
            return 0

    theirs = DeepZoomGenerator(Slide(), TILE_PX, OVERLAP_PX)  # type: ignore[arg-type]
    ours = DeepZoom(wh)
    assert ours.last + 1 == theirs.level_count
    for level, (columns, rows) in enumerate(theirs.level_tiles):
        for ij in {(0, 0), (columns - 1, 0), (0, rows - 1), (columns - 1, rows - 1)}:
            rect = ours.tile(level, ij)
            assert (rect.w, rect.h) == theirs.get_tile_dimensions(level, ij)
            assert (rect.x, rect.y) == (ij[0] * TILE_PX, ij[1] * TILE_PX)
        for ij in ((columns, 0), (0, rows), (-1, 0)):
            with pytest.raises(LookupError):
                ours.tile(level, ij)


def test_tiles_are_the_decoders_pixels(server: Served, noise: FakeFile) -> None:
    dzi = server.get("/dz/a%20b%25.dzi")
    assert dzi.headers["content-type"] == "application/xml"
    assert b'Overlap="0" TileSize="256"><Size Width="1101" Height="699"/>' in dzi.body
    native = noise.octaves[0]
    assert server.get("/dz/a%20b%25_files/11/1_1.jpeg").body == jpeg(native[256:512, 256:512])
    assert server.get("/dz/a%20b%25_files/11/4_2.jpeg").body == jpeg(native[512:, 1024:])
    with CinrSlide(noise.path) as slide:
        half = slide.read_region((1024, 0), 1, (39, 256), as_array=True)
        # Deep Zoom goes on to one pixel, OpenSlide's interface does not: the whole slide in 9 x 6 pixels.
        coarse = slide.read_region_at((0, 0), (9, 6), downsample=128, as_array=True)
    assert server.get("/dz/a%20b%25_files/10/2_0.jpeg").body == jpeg(half)
    assert server.get("/dz/a%20b%25_files/4/0_0.jpeg").body == jpeg(coarse)


def test_the_sources_tiles_lie_over_ours(server: Served, noise: FakeFile) -> None:
    assert server.get("/dz-source/a%20b%25.dzi").body == server.get("/dz/a%20b%25.dzi").body
    for tile in ("11/1_1", "11/4_2", "11/0_0"):
        ours, theirs = (server.get(f"/{kind}/a%20b%25_files/{tile}.jpeg").body for kind in ("dz", "dz-source"))
        assert ours == theirs
    half = noise.octaves[0][:512, :512].reshape(256, 2, 256, 2, 3).astype(float).mean((1, 3))
    got = np.asarray(Image.open(io.BytesIO(server.get("/dz-source/a%20b%25_files/10/0_0.jpeg").body)))
    want = np.asarray(Image.open(io.BytesIO(jpeg(np.floor(half + 0.5).astype(np.uint8)))))
    assert np.array_equal(got, want)


def test_a_slide_without_source(tmp_path: Path) -> None:
    with served(app([fake_file(tmp_path / "s.cinr", (40, 30)).path])) as server:
        assert server.get("/dz-source/s.dzi").status == 404
        assert server.get("/dz-source/s_files/0/0_0.jpeg").body == b"slide 's' has no source beside it\n"


def test_mistakes_in_tiles(server: Served) -> None:
    wrong = (
        "x/0_0.jpeg",
        "11/0.jpeg",
        "11/0_0.png",
        "11/-1_0.jpeg",
        "11/0_0.jpeg.exe",
        "11/1e3_0.jpeg",
        "999/0_0.jpeg",
    )
    for tile in wrong:
        for kind in ("dz", "dz-source"):
            assert server.get(f"/{kind}/a%20b%25_files/{tile}").status == 400, tile
    for tile in ("12/0_0.jpeg", "11/5_0.jpeg", "11/0_3.jpeg"):
        answer = server.get(f"/dz/a%20b%25_files/{tile}")
        assert answer.status == 404
        assert answer.body.startswith(b"there is no level 12" if tile.startswith("12") else b"level 11 has 5 x 3 tiles")
    assert server.get("/dz/a%20b%25.dzi", method="POST").status == 405


# ---- asked again


def test_who_has_a_tile_is_told_so(server: Served, noise: FakeFile) -> None:
    path = "/dz/a%20b%25_files/11/0_0.jpeg"
    first = server.get(path)
    tag = first.headers["etag"]
    assert len(tag) == 34
    assert first.headers["cache-control"] == "private, no-cache"
    done = server.state.work.done
    for header_text in (tag, f'W/{tag}, "x"', "*"):
        again = server.get(path, {"If-None-Match": header_text})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert server.get(path, {"If-None-Match": '"x"'}).body == first.body
    assert server.state.work.done == done  # from memory
    others = (path.replace("0_0", "1_0"), path.replace("dz", "dz-source"))
    assert len({tag, *(server.get(other).headers["etag"] for other in others)}) == 3
    with served(app([noise.path], options=ServeOptions(jpeg_quality=50))) as other:
        answer = other.get(path, {"If-None-Match": tag})
        assert answer.body == jpeg(noise.octaves[0][:256, :256], 50)
        assert answer.headers["etag"] != tag


# ---- damage, and many at once


def test_a_slide_that_cannot_be_shown_has_a_page_that_says_why(tmp_path: Path) -> None:
    path = fake_file(tmp_path / "s<1>.cinr", (40, 30)).path
    with served(app([path])) as server:
        path.write_bytes(path.read_bytes()[:-1])
        damaged, unknown = server.get("/view/s%3C1%3E"), server.get("/view/%3Cb%3E")
    assert (damaged.status, unknown.status) == (500, 404)
    assert b'<p role="alert">s&lt;1&gt;: damaged (truncated): ' in damaged.body
    assert b'<p role="alert">there is no slide &#x27;&lt;b&gt;&#x27;</p>' in unknown.body
    for answer in (damaged, unknown):
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        assert b'href="../"' in answer.body
        assert str(tmp_path).encode() not in answer.body


def test_damage_is_told_and_never_shown(tmp_path: Path) -> None:
    file = fake_file(tmp_path / "s.cinr", WH, bad=[(0, (1, 1))])
    with served(app([file.path])) as server:
        for path in ("/dz/s_files/11/1_1.jpeg", "/iiif/s/300,300,9,9/max/0/default.png"):
            answer = server.get(path)
            assert answer.status == 500
            assert answer.body == b"s: damaged (chunk): octave 0, column 1, row 1: it is not zlib\n"
            assert answer.headers["cache-control"] == "no-store"
            assert "etag" not in answer.headers
        assert server.get("/dz/s_files/11/0_1.jpeg").body == jpeg(file.octaves[0][256:512, :256])


def test_equal_requests_are_one_piece_of_work(server: Served, noise: FakeFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeCoder, "seconds", 0.1)
    bodies: list[bytes] = []
    path = "/dz/a%20b%25_files/11/2_1.jpeg"
    threads = [threading.Thread(target=lambda: bodies.append(server.get(path).body)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bodies == [jpeg(noise.octaves[0][256:512, 512:768])] * 8
    assert server.state.work.done == 1


def test_who_has_gone_is_not_decoded_for(noise: FakeFile, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCoder.calls.clear()
    monkeypatch.setattr(FakeCoder, "seconds", 0.3)
    with served(app([noise.path], options=ServeOptions(decodes=1))) as server:
        first = threading.Thread(target=server.get, args=("/dz/a%20b%25_files/11/0_0.jpeg",))
        first.start()
        while not FakeCoder.calls:
            time.sleep(0.01)
        with socket.create_connection((server.host, server.port)) as other:
            other.sendall(b"GET /dz/a%20b%25_files/11/3_1.jpeg HTTP/1.1\r\nHost: x\r\n\r\n")
            while len(server.state.work._flights) < 2:
                time.sleep(0.01)
        first.join()
        assert server.get("/dz/a%20b%25_files/11/0_1.jpeg").status == 200
        assert (server.state.work.done, server.state.work.dropped) == (2, 1)
    assert noise.payloads[0, (3, 1)] not in FakeCoder.calls
    assert noise.payloads[0, (0, 0)] in FakeCoder.calls


def test_a_grey_slide(tmp_path: Path) -> None:
    grey = fake_file(tmp_path / "grey.cinr", (300, 200), channels=1)
    with served(app([grey.path])) as server:
        assert server.get("/dz/grey_files/9/1_0.jpeg").body == jpeg(grey.octaves[0][:, 256:, 0])
    slide = replace(header((40, 30)).slide, channels=4, background=(*BACKGROUND, 0))
    many = replace(header((40, 30)), slide=slide)
    with ContainerWriter(tmp_path / "many.cinr", many) as writer:
        for number in range(many.chunk_count):
            writer.put_blank(*many.chunk_at(number), (1, 2, 3, 4))
        writer.finish()
    with pytest.raises(UsageError, match="has 4 channels of 8 bits; slides of 1 or 3 channels of 8 bits are served"):
        app([tmp_path / "many.cinr"])
