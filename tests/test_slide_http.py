"""A slide over HTTP: a first view and a pan read the index and the chunks they show, and hardly anything besides."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inrwsi import CinrSlide, UsageError, open_slide
from inrwsi.geometry import octave_wh
from tests.fake_octaves import FakeCoder, FakeFile, area_means, fake_file
from tests.format.test_http import RangeHandler

pytest.importorskip("aiohttp", reason="fsspec reads http:// with aiohttp (extra: http)")
WH = (2600, 2000)  # 11 x 8 chunks of noise at octave 0
VIEW = (512, 512)
SLACK_BYTES = 24_000  # header, index root and a page of the index
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of aiohttp's sessions
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Python 3.12 and later, of any fork beside threads
]


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> FakeFile:
    return fake_file(tmp_path_factory.mktemp("http") / "noise.cinr", WH)


@pytest.fixture
def served(noise: FakeFile, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[int]]]:
    """The file on a server of this machine: its address, and the bytes of each answer, as they are given."""
    monkeypatch.setattr("inrwsi.octave_tiles.ChunkCoder", FakeCoder)

    class Handler(RangeHandler):
        blob = noise.path.read_bytes()
        sent: list[int] = []  # noqa: RUF012

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/slide", Handler.sent
    server.shutdown()
    thread.join()
    server.server_close()


def payload_bytes(noise: FakeFile, finest: int, xy: tuple[int, int], wh: tuple[int, int]) -> dict[Any, int]:
    """Of each chunk that a region of an octave needs: those under it, and their ancestors."""
    x0, y0, x1, y1 = xy[0], xy[1], xy[0] + wh[0] - 1, xy[1] + wh[1] - 1
    found = {}
    for octave in range(finest, len(noise.octaves)):
        side = 256 << (octave - finest)
        for i in range(x0 // side, x1 // side + 1):
            for j in range(y0 // side, y1 // side + 1):
                found[octave, (i, j)] = len(noise.payloads[octave, (i, j)])
    return found


def test_a_first_view_and_a_pan(served: tuple[str, list[int]], noise: FakeFile) -> None:
    url, sent = served
    with open_slide(url) as slide:
        assert isinstance(slide, CinrSlide)
        assert slide.dimensions == WH
        assert dict(slide.properties)["openslide.level-count"] == "5"
        assert len(sent) <= 5
        assert sum(sent) < SLACK_BYTES
        file_bytes = noise.path.stat().st_size

        # The first view: the whole slide, small, which is its coarsest level: the octave above it and what that needs.
        before = (len(sent), sum(sent))
        coarsest = slide.level_dimensions[-1]
        assert max(coarsest) <= 256
        view = slide.read_region((0, 0), slide.level_count - 1, coarsest, as_array=True)
        octave, step = slide.level_count - 2, 2.0 ** (slide.level_count - 1)
        assert np.abs(view - area_means(noise, octave, (0, 0), (step, step), coarsest)).max() <= 0.6
        needed = payload_bytes(noise, octave, (0, 0), octave_wh(WH, octave))
        assert len(sent) - before[0] <= len(needed) + 1
        assert sum(sent) - before[1] <= sum(needed.values()) + SLACK_BYTES

        # Into the slide at native resolution: four chunks, and their ancestors once each.
        before = (len(sent), sum(sent))
        xy = (1024, 1024)
        view = slide.read_region(xy, 0, VIEW, as_array=True)
        assert np.array_equal(view, noise.octaves[0][1024:1536, 1024:1536])
        zoomed = payload_bytes(noise, 0, xy, VIEW)
        missing = {key: size for key, size in zoomed.items() if key not in needed}
        assert len(sent) - before[0] <= len(missing) + 2
        assert sum(sent) - before[1] <= sum(missing.values()) + SLACK_BYTES

        # A pan by half a view: two more chunks of octave 0, and no ancestor twice.
        before = (len(sent), sum(sent))
        xy = (1280, 1024)
        view = slide.read_region(xy, 0, VIEW, as_array=True)
        assert np.array_equal(view, noise.octaves[0][1024:1536, 1280:1792])
        panned = payload_bytes(noise, 0, xy, VIEW)
        missing = {key: size for key, size in panned.items() if key not in zoomed and key not in needed}
        assert sum(octave == 0 for octave, _ in missing) == 2
        assert len(sent) - before[0] <= len(missing)
        assert sum(sent) - before[1] <= sum(missing.values())

        # And the same again costs nothing.
        before = (len(sent), sum(sent))
        assert np.array_equal(slide.read_region(xy, 0, VIEW, as_array=True), view)
        assert (len(sent), sum(sent)) == before
        assert sum(sent) < file_bytes / 4


def test_a_batch_over_http(served: tuple[str, list[int]], noise: FakeFile) -> None:
    url, _ = served
    corners = [(x, 500) for x in range(0, 2500, 250)]
    with open_slide(url) as slide:
        got = slide.read_regions_at(corners, (64, 64), as_array=True)  # type: ignore[union-attr]
    for (x, y), one in zip(corners, got, strict=True):
        assert np.array_equal(one, noise.octaves[0][y : y + 64, x : x + 64])


def read_in_child(slide: CinrSlide, queue: Any) -> None:
    try:
        queue.put(slide.read_region((300, 300), 0, (10, 10), as_array=True))
    except BaseException as error:
        queue.put(error)


def test_another_process_makes_its_own_connection(served: tuple[str, list[int]], noise: FakeFile) -> None:
    url, _ = served
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    want = noise.octaves[0][300:310, 300:310]
    with open_slide(url) as slide:
        assert np.array_equal(slide.read_region((300, 300), 0, (10, 10), as_array=True), want)  # type: ignore[call-arg]
        child = context.Process(target=read_in_child, args=(slide, queue))
        child.start()
        try:
            assert np.array_equal(queue.get(timeout=60), want)
        finally:
            child.kill()
            child.join()
        with pickle.loads(pickle.dumps(slide)) as again:
            assert np.array_equal(again.read_region((300, 300), 0, (10, 10), as_array=True), want)


def test_what_is_no_cinr_at_an_address(
    served: tuple[str, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = served
    Image.new("RGB", (5, 5)).save(tmp_path / "picture.png")
    with pytest.raises(UsageError, match=r"slide\.cinr: cannot be opened: .*(onnect|refused)"):
        open_slide("http://127.0.0.1:1/slide.cinr")
    with pytest.raises(UsageError, match=r"memory://none\.cinr: cannot be opened: it is not there"):
        open_slide("memory://none.cinr")
    with pytest.raises(UsageError, match=r"is no \.cinr file; OpenSlide opens others, from a local path"):
        open_slide((tmp_path / "picture.png").as_uri())
    assert CinrSlide.detect_format(url) == "inrwsi"
