"""The walkthrough in docs/, run on a small generated slide: what it promises is made, and is what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import openslide
from PIL import Image

import inrwsi

SCRIPT = Path(__file__).parent.parent / "docs" / "walkthrough.py"


def test_walkthrough(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(SCRIPT), "--out", str(tmp_path / "walk"), "--size", "1024"]
    end = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert end.returncode == 0, end.stderr
    said = end.stdout.splitlines()
    topics = [line.split(":")[0] for line in said]
    assert topics == ["encoded", "read", "patches", "compared", "exported", "to look at it"]
    assert "1 um a pixel (256, 256, 3)" in said[1]
    found = re.search(r"patches: (\d+) of 128 x 128 pixels", said[2])
    assert found is not None
    assert 1 <= int(found[1]) <= 16
    found = re.search(r"PSNR (\d+\.\d+) dB, SSIM (0\.\d+)", said[3])
    assert found is not None
    assert float(found[1]) > 30
    assert float(found[2]) > 0.8
    made = {path.name for path in (tmp_path / "walk").iterdir()}
    assert made == {"sample.tiff", "sample.cinr", "sample.tif", "worst.png"}
    with inrwsi.open_slide(tmp_path / "walk" / "sample.cinr") as slide:
        assert slide.dimensions == (1024, 1024)
    with openslide.OpenSlide(tmp_path / "walk" / "sample.tif") as slide:
        assert slide.level_dimensions == ((1024, 1024), (512, 512))
        assert float(slide.properties["openslide.mpp-x"]) == 0.5
    with Image.open(tmp_path / "walk" / "worst.png") as picture:
        assert picture.size == (784, 1100)
