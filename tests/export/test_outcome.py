"""An export is whole or not there, replaces nothing else, and tells mistakes; the command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from inrwsi import CorruptFile, UsageError
from inrwsi.export import export
from inrwsi.formats.export_base import PyramidSpec
from inrwsi.formats.writer import ContainerWriter
from inrwsi.progress import Progress
from tests.export.conftest import WH, Made, left, run
from tests.fake_octaves import BACKGROUND, FakeCoder, fake_file, header

# ---- whole or not there


@pytest.mark.parametrize("name", ["slide.tif", "slide.ome.zarr", "slide.dzi"])
def test_interrupted_leaves_nothing_and_what_was_there(name: str, made: Made, tmp_path: Path) -> None:
    if name.endswith("zarr"):
        pytest.importorskip("zarr")

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    out = tmp_path / name
    with pytest.raises(KeyboardInterrupt):
        export(made.path, out, device="cpu", progress=interrupt)
    assert left(tmp_path) == set()
    export(made.path, out, device="cpu")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="is there already; give --overwrite to replace it"):
        export(made.path, out, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        export(made.path, out, device="cpu", overwrite=True, progress=interrupt)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    export(made.path, out, device="cpu", overwrite=True, quality=50)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    assert (after == before) == name.endswith("zarr")


def foreign(folder: Path, name: str) -> list[Path]:
    """Somebody's data under the names of an export."""
    if name.endswith("zarr"):
        (folder / name).mkdir()
        (folder / name / ".zgroup").write_text('{"zarr_format": 2}')
        (folder / name / ".zattrs").write_text('{"multiscales": [{"version": "0.4"}]}')
        return [folder / name / ".zgroup", folder / name / ".zattrs"]
    if name == "lossless.tif":
        tifffile.imwrite(folder / name, np.zeros((9, 9, 3), np.uint8))
        return [folder / name]
    if name == "notes.dzi":
        (folder / name).write_text("not to be lost")
        return [folder / name]
    (folder / "study_files" / "0").mkdir(parents=True)
    (folder / "study_files" / "0" / "results.csv").write_text("not to be lost")
    return [folder / "study_files" / "0" / "results.csv"]


@pytest.mark.parametrize("name", ["lossless.tif", "theirs.ome.zarr", "notes.dzi", "study.dzi"])
def test_nothing_but_an_export_is_replaced(name: str, made: Made, tmp_path: Path) -> None:
    files = foreign(tmp_path, name)
    before = {path: path.read_bytes() for path in files}
    with pytest.raises(UsageError, match="is there and is no such export; give another name, or remove it"):
        export(made.path, tmp_path / name, overwrite=True, device="cpu")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_export_is_known_whatever_its_suffixs_case(made: Made, tmp_path: Path) -> None:
    for _ in range(2):
        export(made.path, tmp_path / "S.DZI", device="cpu", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["S.DZI", "S_files"]


def test_what_was_put_beside_an_exports_tiles_is_not_lost(made: Made, tmp_path: Path) -> None:
    """Nor a folder of tiles whose description is another program's."""
    out = tmp_path / "slide.dzi"
    export(made.path, out, device="cpu")
    kept = tmp_path / "slide_files" / "0" / "notes.txt"
    for path, text in ((kept, "not to be lost"), (out, "<Image/>")):
        before = path.read_bytes() if path.exists() else None
        path.write_text(text)
        with pytest.raises(UsageError, match="is there and is no such export"):
            export(made.path, out, overwrite=True, device="cpu")
        assert path.read_text() == text
        path.unlink() if before is None else path.write_bytes(before)
    export(made.path, out, overwrite=True, device="cpu")


@pytest.mark.parametrize(
    ("out", "settings", "sentence"),
    [
        ("slide.png", {}, r"name should end in \.tif, \.tiff, \.ome\.zarr or \.dzi"),
        ("missing/slide.tif", {}, "the folder .*missing is not there; make it first"),
        ("slide.tif", {"quality": 0}, "JPEG quality 0 is not possible; give 1 to 100"),
    ],
)
def test_outputs_that_cannot_be(out: str, settings: dict[str, Any], sentence: str, made: Made, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=sentence):
        export(made.path, tmp_path / out, device="cpu", **settings)
    assert left(tmp_path) == set()


def test_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inrwsi.octave_tiles.ChunkCoder", FakeCoder)
    bad = fake_file(tmp_path / "bad.cinr", (700, 300), bad=[(0, (1, 0))])
    with pytest.raises(CorruptFile, match="octave 0, column 1, row 0"):
        export(bad.path, tmp_path / "bad.tif", device="cpu")
    assert left(tmp_path) == {"bad.cinr"}
    report = export(bad.path, tmp_path / "bad.tif", quality=100, device="cpu", salvage=True)
    assert len(report.damaged) == 1
    with tifffile.TiffFile(tmp_path / "bad.tif") as file:
        filled = file.series[0].asarray()[8:248, 264:504]
    assert np.abs(filled.astype(int) - BACKGROUND).max() <= 2


def test_many_channels_are_refused(tmp_path: Path) -> None:
    from inrwsi.formats.export_tiff import TiffPyramid

    with pytest.raises(UsageError, match="has 4 channels; an export has 1 or 3"):
        TiffPyramid(tmp_path / "a.tif", PyramidSpec(WH, 4, None, None, None, 90))


# ---- the command


def test_command(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "slide.tif"
    result = run("export", made.path, out, "--quality", 80, "--device", "cpu")
    assert result.exit_code == 0, result.output
    size = out.stat().st_size
    assert f"slide.tif: {size:,} bytes, 1,301 x 777 pixels, 3 levels, " in result.stdout
    assert "export: 1.01 of 1.01 Mpx" in result.stderr
    assert run("export", made.path, out).exit_code == 2
    quiet = run("export", made.path, out, "--overwrite", "-q", "--quality", 80, "--device", "cpu")
    assert (quiet.exit_code, quiet.output) == (0, "")
    damaged = tmp_path / "damaged.cinr"
    damaged.write_bytes(made.path.read_bytes()[:-50])
    assert run("export", damaged, tmp_path / "b.tif").exit_code == 3
    monkeypatch.setattr("inrwsi.octave_tiles.ChunkCoder", FakeCoder)
    bad = fake_file(tmp_path / "bad.cinr", (300, 300), bad=[(0, (1, 0))])
    result = run("export", bad.path, tmp_path / "bad.tif", "--device", "cpu", "-q")
    assert result.exit_code == 3
    result = run("export", bad.path, tmp_path / "bad.tif", "--device", "cpu", "-q", "--salvage")
    assert result.exit_code == 0
    assert "filled with the background" in result.stderr


def test_mistakes_are_told_without_torch(tmp_path: Path) -> None:
    fake_header = header((300, 200))
    with ContainerWriter(tmp_path / "a.cinr", fake_header) as writer:
        for number in range(fake_header.chunk_count):
            writer.put_blank(*fake_header.chunk_at(number), BACKGROUND)
        writer.finish()
    code = (
        "import sys; from inrwsi.cli.main import main\n"
        "try: main(['export', sys.argv[1], sys.argv[2]], prog_name='inrwsi')\n"
        "except SystemExit as end: sys.exit(9 if 'torch' in sys.modules else end.code)\n"
    )
    end = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.cinr"), str(tmp_path / "a.gif")], capture_output=True, text=True
    )
    assert end.returncode == 2, end.stderr
    assert "name should end in .tif" in end.stderr
