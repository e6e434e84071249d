"""docs/adding-a-model.md does what it says: its file is a model, with nothing else changed."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inrwsi.benchmarks.codecs_ours import our_codecs
from inrwsi.decode import Decoder
from inrwsi.fields import models
from inrwsi.metrics import psnr
from inrwsi.sample import sample_region
from tests.cli.conftest import run

PAGE = (Path(__file__).parent.parent / "docs" / "adding-a-model.md").read_text(encoding="utf-8")


@pytest.fixture
def finer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's file, where the package finds its models."""
    folder = tmp_path / "models"
    folder.mkdir()
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (folder / "finer.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(folder)])
    importlib.invalidate_caches()
    yield
    sys.modules.pop(f"{models.__name__}.finer", None)


@pytest.mark.usefixtures("finer")
def test_the_page_adds_a_model(tmp_path: Path) -> None:
    """It encodes and decodes from the command line, is benched, and differs from SIREN where the paper says."""
    assert "finer" in models.model_names()
    pixels = sample_region((900, 900), (72, 72), size_wh=(2048, 2048), seed=1)
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    out = tmp_path / "slide.cinr"
    options = ("--model", "finer", "--bpp", 4, "--tile-px", 72, "--passes", 150, "--device", "cpu", "-q")
    result = run("encode", tmp_path / "slide.png", "-o", out, *options)
    assert (result.exit_code, result.output) == (0, "")
    assert re.search("model +finer", run("info", out).stdout)
    with Decoder(out, device="cpu") as decoder:
        decoded = decoder.read_region((0, 0), (72, 72))
        assert np.array_equal(decoder.read_region((10, 20), (30, 9), step=1 / 3)[1::3, 1::3], decoded[20:29, 10:40])
    assert psnr(pixels, decoded) > 30
    (codec,) = our_codecs(("finer",), bpp=(2,))
    assert codec.passes == 60


def test_without_the_file_there_is_no_such_model() -> None:
    assert "finer" not in models.model_names()


def test_the_page_names_every_model() -> None:
    row = {name for line in PAGE.splitlines() if "Config`" in line for name in re.findall(r"`([\w-]+)`", line)}
    assert set(models.model_names()) <= row
