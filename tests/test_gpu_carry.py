"""What a bare GPU machine is sent: pixels that a run there takes, and packages that it lacks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from inrwsi.benchmarks import gpu_carry, gpu_octaves, gpu_paper
from inrwsi.formats.source import open_source
from inrwsi.sample import sample_region

ROOT = Path(__file__).parents[1]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in, and slides in it."""
    monkeypatch.chdir(tmp_path)
    rgb = sample_region((900, 900), (400, 300), size_wh=(2048, 2048), seed=1)
    Image.fromarray(rgb).save("slide.png")
    (tmp_path / "slides").mkdir()
    for name in ("liver-HE.png", "CMU-1-Small-Region.svs"):
        Image.fromarray(rgb[:200]).save(tmp_path / "slides" / name, "png")
    monkeypatch.setattr(gpu_carry, "TRAINED_ON", {"liver-HE.png": 1.0, "CMU-1-Small-Region.svs": 1.0})
    return tmp_path


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(a.astype(float) - b).mean()))


def test_the_crop_and_the_pictures_are_small_and_near_what_they_were(here: Path) -> None:
    done = CliRunner().invoke(gpu_carry.main, ["--slide", "slide.png", "--slides", "slides", "--side", "256"])
    assert done.exit_code == 0, done.output
    assert "carried: 4 files, 0." in done.output
    about = json.loads(gpu_carry.PLACE.read_text())
    assert (about["slide"], about["jpeg_quality"]) == ("slide.png", 95)
    (x, y), slide = about["l0_xy"], np.asarray(Image.open("slide.png"))
    crop = np.asarray(Image.open(gpu_carry.CROP))
    assert crop.shape == (256, 256, 3)
    assert psnr_db(crop, slide[y : y + 256, x : x + 256]) > 38
    assert gpu_carry.CROP.stat().st_size < 256 * 256
    for name in gpu_carry.TRAINED_ON:  # whatever it is called
        with open_source(gpu_carry.SLIDES / name) as source:
            assert psnr_db(source.read((0, 0), (400, 200)), slide[:200]) > 35
    assert gpu_paper.CROP == gpu_carry.CROP
    assert gpu_octaves.SLIDES == gpu_carry.SLIDES


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [([], "nothing is asked for; give --slide, --slides or --wheels"), (["--slide", "none.tiff"], "none.tiff")],
)
def test_mistakes_are_a_sentence(here: Path, arguments: list[str], sentence: str) -> None:
    done = CliRunner().invoke(gpu_carry.main, arguments)
    assert done.exit_code != 0
    assert sentence in str(done.exception)
    assert not (here / "carried").exists()


def test_a_machine_where_nothing_was_installed_runs_every_step(tmp_path: Path) -> None:
    """The checkout alone, as a bare machine has it: no `inrwsi.formats` of an installation, and a carried package."""
    for name in ("inrwsi", "formats", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    script = (
        "import sys\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)]\n"
        f"sys.path[:0] = [{str(tmp_path)!r}]\n"
        "import torch; torch.cuda.is_available = lambda: False\n"
        "from pathlib import Path\n"
        "from benchmarks import gpu\n"
        f"gpu.use_carried(Path({str(tmp_path)!r}))\n"
        "import inrwsi.formats.source\n"
        f"sys.exit(gpu.main(['--quick', '--only', 'parity_octaves', '--out', {str(tmp_path / 'out')!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "gpu.json").read_text())["results"]["parity_octaves"]
    assert result["ok"]
    assert "skipped" not in result
