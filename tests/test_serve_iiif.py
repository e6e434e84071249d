"""IIIF Image API 3.0: what requests mean, what is answered, and the IIIF validator's own verdict."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inrwsi.decode import Decoder
from inrwsi.errors import UsageError
from inrwsi.serve import app
from inrwsi.serve.iiif import JSON_LD, info_media_type, parse
from inrwsi.serve.options import ServeOptions
from tests.fake_octaves import FakeCoder, FakeFile, fake_file
from tests.served import Served, served

WH = (1101, 699)
MOST = 512


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> FakeFile:
    return fake_file(tmp_path_factory.mktemp("iiif") / "a b.cinr", WH)


@pytest.fixture
def server(noise: FakeFile, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr("inrwsi.octave_tiles.ChunkCoder", FakeCoder)
    with served(app([noise.path], options=ServeOptions(max_side_px=MOST))) as running:
        yield running


def picture(server: Served, path: str) -> np.ndarray:
    answer = server.get(f"/iiif/a%20b/{path}")
    assert answer.status == 200, answer.body
    return np.asarray(Image.open(io.BytesIO(answer.body)))


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("full/max/0/default.jpg", "full/max/0/default.jpg"),
        ("0,0,1101,699/512,/0/color.jpg", "full/max/0/default.jpg"),
        ("0,0,9999,9999/^max/360/default.png", "full/max/0/default.png"),
        ("square/100,/!90.0/gray.png", "201,0,699,699/100,100/!90/gray.png"),
        ("10,20,300,200/max/180/bitonal.jpg", "10,20,300,200/max/180/bitonal.jpg"),
        ("10,20,300,200/^max/0/default.jpg", "10,20,300,200/^512,341/0/default.jpg"),
        ("1000,600,300,200/,50/0/default.jpg", "1000,600,101,99/51,50/0/default.jpg"),
        ("pct:50,50,25,25/pct:10/0/default.jpg", "550,350,276,174/28,17/0/default.jpg"),
        ("pct:99.5,0,5.5,.5/max/0/default.jpg", "1095,0,6,3/max/0/default.jpg"),
        ("0,0,100,50/!40,40/0/default.jpg", "0,0,100,50/40,20/0/default.jpg"),
        ("0,0,100,50/!400,50/0/default.jpg", "0,0,100,50/max/0/default.jpg"),
        ("0,0,100,50/^!400,400/0/default.jpg", "0,0,100,50/^400,200/0/default.jpg"),
        ("0,0,100,50/^pct:200/0/default.jpg", "0,0,100,50/^200,100/0/default.jpg"),
        ("0,0,100,50/^200,/0/default.jpg", "0,0,100,50/^200,100/0/default.jpg"),
        ("0,0,100,50/30,40/0/default.jpg", "0,0,100,50/30,40/0/default.jpg"),
        ("0,0,1101,2/100,/0/default.jpg", "0,0,1101,2/100,1/0/default.jpg"),
    ],
)
def test_what_a_request_means(path: str, canonical: str) -> None:
    asked = parse(*path.split("/"), WH, MOST)
    assert asked.canonical(WH, MOST) == canonical
    assert parse(*canonical.split("/"), WH, MOST) == asked


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("fuller/max/0/default.jpg", "region 'fuller' is not full"),
        ("1,2,3/max/0/default.jpg", "region '1,2,3' is not full"),
        ("-1,2,3,4/max/0/default.jpg", "region '-1,2,3,4' is not full"),
        ("1,2,0,4/max/0/default.jpg", "holds nothing of the slide, which is 1101 x 699 pixels"),
        ("1101,0,5,5/max/0/default.jpg", "holds nothing of the slide"),
        ("pct:0,0,101,nan/max/0/default.jpg", "region 'pct:0,0,101,nan' is not full"),
        ("\N{ARABIC-INDIC DIGIT ONE},0,5,5/max/0/default.jpg", "is not full"),
        ("full/full/0/default.jpg", "size 'full' is not max"),
        ("full/,/0/default.jpg", "size ',' is not max"),
        ("full/0,/0/default.jpg", "size '0,' is less than a pixel"),
        ("full/!0,5/0/default.jpg", "size '!0,5' is less than a pixel"),
        ("full/pct:0/0/default.jpg", "size 'pct:0' is less than a pixel"),
        ("full/600,/0/default.jpg", "size '600,' is 600 x 381 pixels; the limit is 512 a side"),
        ("0,0,10,10/^99999999,/0/default.jpg", "the limit is 512 a side"),
        ("0,0,10,10/11,/0/default.jpg", "is larger than the region's 10 x 10 pixels; ask for '\\^11,'"),
        ("0,0,10,10/pct:101/0/default.jpg", "size 'pct:101' is larger than the region's"),
        ("0,0,10,10/!11,12/0/default.jpg", "is larger than the region's"),
        ("full/max/45/default.jpg", "rotation '45' is not 0, 90, 180 or 270"),
        ("full/max/-90/default.jpg", "rotation '-90'"),
        ("full/max/!!90/default.jpg", "rotation '!!90'"),
        ("full/max/0/native.jpg", "quality 'native' is not one of default, color, gray, bitonal"),
        ("full/max/0/default.gif", "format 'gif' is not one of jpg, png"),
        ("full/max/0/default", "quality '' is not one of"),
    ],
)
def test_what_is_refused(path: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse(*path.split("/"), WH, MOST)


def test_work_is_bounded_whatever_the_proportions() -> None:
    """A tall region in one row would need all of its pixels, at the scale of its width."""
    assert parse("full", "512,1", "0", "default.jpg", (4096, 4096), MOST).size_wh == (512, 1)
    with pytest.raises(UsageError, match="scales width and height of the region too differently"):
        parse("0,0,512,4000000", "512,1", "0", "default.jpg", (4096, 4_000_000), MOST)
    parse("full", "!512,512", "0", "default.jpg", (4096, 4_000_000), MOST)
    parse("full", "max", "0", "default.jpg", (100_000, 100_000), MOST)


def test_pictures(server: Served, noise: FakeFile) -> None:
    native = noise.octaves[0]
    part = native[20:220, 10:310]
    assert np.array_equal(picture(server, "10,20,300,200/max/0/default.png"), part)
    assert np.array_equal(picture(server, "10,20,300,200/max/90/default.png"), np.rot90(part, -1))
    assert np.array_equal(picture(server, "10,20,300,200/max/180/default.png"), part[::-1, ::-1])
    assert np.array_equal(picture(server, "10,20,300,200/max/270/default.png"), np.rot90(part))
    assert np.array_equal(picture(server, "10,20,300,200/max/!90/default.png"), np.rot90(part[:, ::-1], -1))
    grey = np.asarray(Image.fromarray(part).convert("L"))
    assert np.array_equal(picture(server, "10,20,300,200/max/0/gray.png"), grey)
    assert Image.open(io.BytesIO(server.get("/iiif/a%20b/10,20,300,200/max/0/bitonal.png").body)).mode == "1"
    assert picture(server, "10,20,300,200/max/0/bitonal.jpg").shape == (200, 300)
    assert picture(server, "square/^512,512/0/default.jpg").shape == (512, 512, 3)
    assert picture(server, "10,20,30,20/^300,200/0/default.jpg").shape == (200, 300, 3)


def test_a_tile_is_that_of_deep_zoom(server: Served) -> None:
    """At the slide's edge too, where the region is no whole number of the tile's pixels."""
    for region, size, tile in (
        ("512,512,512,187", "256,94", "10/1_1"),
        ("1024,0,77,512", "39,256", "10/2_0"),
        ("0,0,1101,699", "138,88", "8/0_0"),
    ):
        ours = server.get(f"/iiif/a%20b/{region}/{size}/0/default.jpg")
        assert ours.body == server.get(f"/dz/a%20b_files/{tile}.jpeg").body, ours.body[:100]


@pytest.mark.parametrize(("region", "side"), [((100, 100, 97, 97), 13), ((300, 200, 345, 345), 44)])
def test_within_the_slide_a_region_is_all_that_is_shown(
    server: Served, noise: FakeFile, region: tuple[int, int, int, int], side: int
) -> None:
    """Though it is no whole number of pixels of the level that a tile of its size would be of."""
    shown = picture(server, f"{','.join(map(str, region))}/{side},{side}/0/default.png")
    with Decoder(noise.path, device="cpu") as decoder:
        assert (shown == decoder.read_region(region[:2], region[2:], out_wh=(side, side))).all()


def test_answers(server: Served) -> None:
    base = f"{server.address}/iiif/a%20b"
    redirect = server.get("/iiif/a%20b")
    assert (redirect.status, redirect.headers["location"]) == (303, f"{base}/info.json")
    answer = server.get("/iiif/a%20b/info.json", {"Origin": "http://x.org"})
    assert answer.headers["content-type"] == JSON_LD
    assert answer.headers["access-control-allow-origin"] == "*"
    info = json.loads(answer.body)
    assert (info["id"], info["profile"], info["width"], info["height"]) == (base, "level2", *WH)
    assert info["tiles"] == [{"width": 256, "height": 256, "scaleFactors": [1, 2, 4, 8]}]
    assert info["sizes"] == [{"width": 138, "height": 88}, {"width": 276, "height": 175}]
    assert (info["maxWidth"], info["maxHeight"]) == (MOST, MOST)
    for size in info["sizes"]:
        assert picture(server, f"full/{size['width']},{size['height']}/0/default.jpg").shape[0] == size["height"]
    image = server.get("/iiif/a%20b/0,0,1101,699/pct:10/0/color.jpg", {"Origin": "http://x.org"})
    assert f'<{base}/full/110,70/0/default.jpg>;rel="canonical"' in image.headers["link"]
    assert image.headers["access-control-allow-origin"] == "*"
    again = server.get("/iiif/a%20b/full/110,70/0/default.jpg", {"If-None-Match": image.headers["etag"]})
    assert again.status == 304
    wrong = server.get("/iiif/a%20b/full/9999,/0/default.jpg", {"Origin": "http://x.org"})
    assert (wrong.status, wrong.headers["access-control-allow-origin"]) == (400, "*")
    assert wrong.body == b"size '9999,' is 9999 x 6348 pixels; the limit is 512 a side\n"
    allowed = {"Origin": "http://x.org", "Access-Control-Request-Method": "GET"}
    assert server.get("/iiif/a%20b/info.json", allowed, method="OPTIONS").status == 200


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, JSON_LD),
        ("*/*", JSON_LD),
        ("application/ld+json", JSON_LD),
        ("application/json", "application/json"),
        ("text/html, application/json;q=0.9, application/ld+json;q=0.5", "application/json"),
        (f"application/json;q=0.5, {JSON_LD}", JSON_LD),
    ],
)
def test_the_media_type_is_negotiated(accept: str | None, media_type: str) -> None:
    assert info_media_type(accept) == media_type


def test_the_iiif_validator_is_content(tmp_path: Path) -> None:
    """Its own command, at 3.0 level 2, on its picture of a hundred squares, encoded as a slide."""
    from inrwsi.encode import encode
    from inrwsi.formats.source import open_source
    from inrwsi.options import EncodeOptions

    if importlib.util.find_spec("iiif_validator") is None:
        pytest.skip("iiif-validator is not installed: pip install iiif-validator")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is of Python 2's time
        try:
            from iiif_validator.validator import ValidationInfo
        except ImportError as error:
            if "magic" not in str(error):
                raise
            pytest.skip("libmagic is not installed, which the IIIF validator needs: apt-get install libmagic1")
    colours = np.array(ValidationInfo().colorInfo, np.uint8)  # by column, then row
    pixels = colours.swapaxes(0, 1).repeat(100, axis=0).repeat(100, axis=1)
    with open_source(np.ascontiguousarray(pixels)) as source:
        encode(source, tmp_path / "squares-1.cinr", EncodeOptions(quality=95, effort="fast", device="cpu"))
    with served(app([tmp_path])) as server:
        command = [sys.executable, str(Path(sys.executable).parent / "iiif-validate.py"), "-v"]
        command += ["-s", f"{server.host}:{server.port}", "-p", "iiif", "-i", "squares-1", "--version=3.0", "--level=2"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    verdict = re.search(r"Done \((\d+) tests, (\d+) failures\)", ran.stdout + ran.stderr)
    assert verdict is not None, ran.stderr
    assert verdict.groups() == ("33", "0"), ran.stderr
    assert ran.returncode == 0
