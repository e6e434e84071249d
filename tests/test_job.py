"""An encoding's work folder: one process's at a time, nobody else's files, and nothing taken for whole that is not."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inrwsi.encode_units import Parts, Plan
from inrwsi.errors import UsageError
from inrwsi.fields.octaves_model import FEATURES, Decoded
from inrwsi.job import Job, Log
from tests.octaves_encoded import GLASS, make, patch_coder, texture

ABOUT = {"--quality": 60}


def job(out: Path, *, resume: bool = False, overwrite: bool = False, about: dict[str, Any] | None = None) -> Job:
    return Job(out, about or ABOUT, resume=resume, overwrite=overwrite)


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
def test_a_folder_is_one_encodings(how: dict[str, bool], tmp_path: Path) -> None:
    """Though another is told to go on with it or to begin again: it would write into the first one's logs."""
    out = tmp_path / "a.cinr"
    first = job(out)
    first.put(3, b"first", blank=False)
    with pytest.raises(UsageError, match=r"a\.cinr\.work: another process is encoding to this output; wait for it"):
        job(out, **how)
    assert first.get(3) == b"first"
    first.close()
    with pytest.raises(UsageError, match="was begun without --psnr, now it is with --psnr 40; use the same"):
        job(out, resume=True, about={"--psnr": 40})
    second = job(out, resume=True)  # the refused one does not hold it
    assert second.get(3) == b"first"
    second.discard()
    assert os.listdir(tmp_path) == []


def test_a_process_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from inrwsi.job import Job\n"
        "job = Job(Path(sys.argv[1]), {'--quality': 60}, resume=False, overwrite=False)\n"
        "job.put(1, b'kept', blank=False); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.cinr")], check=False)
    assert ended.returncode == -9
    again = job(tmp_path / "a.cinr", resume=True)
    assert again.get(1) == b"kept"
    again.close()


@pytest.mark.parametrize("overwrite", [False, True])
def test_somebodys_folder_is_left(overwrite: bool, tmp_path: Path) -> None:
    mine = tmp_path / "a.cinr.work" / "data.txt"
    mine.parent.mkdir()
    mine.write_text("not to be lost")
    with pytest.raises(UsageError, match=r"a\.cinr\.work: is there and is no encoding's; remove it"):
        job(tmp_path / "a.cinr", overwrite=overwrite)
    assert mine.read_text() == "not to be lost"
    mine.rename(mine.with_name("job.json.partial"))  # what a kill at the very beginning leaves
    job(tmp_path / "a.cinr", overwrite=overwrite).discard()


def test_a_record_that_changed_is_not_taken(tmp_path: Path) -> None:
    log = Log(tmp_path / "a.log")
    log.put(1, b"one")
    log.put(2, b"two")
    blob = (tmp_path / "a.log").read_bytes()
    (tmp_path / "a.log").write_bytes(blob.replace(b"one", b"0ne"))
    assert log.get(2) == b"two"
    with pytest.raises(UsageError, match=r"a\.log: is damaged; encode again with --overwrite"):
        log.get(1)
    log.close()


@pytest.mark.parametrize("place", ["number", "length"])
def test_a_checkpoint_that_changed_is_not_taken(place: str, tmp_path: Path) -> None:
    """Safetensors say nothing of a number that changed: a network would come of it, and pixels of that."""
    held = job(tmp_path / "a.cinr")
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    held.save_network({"weight": weights}, {"done": True})
    network = held.load_network()
    assert network is not None
    assert network[0]["weight"].tobytes() == weights.tobytes()
    assert network[1] == {"done": True}
    (path,) = (p for p in held.folder.iterdir() if p.name.startswith("network"))
    raw = bytearray(path.read_bytes())
    at = raw.index(weights.tobytes()) if place == "number" else len(raw) - 1
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 64]) * (place == "number") + raw[at + 1 :])
    with pytest.raises(UsageError, match=r"network.* is damaged; encode again with --overwrite"):
        held.load_network()
    held.discard()


class FullDisk:
    """Takes so many bytes, the last of them in part without a word, and is then full."""

    def __init__(self, room: int) -> None:
        self.taken, self._room = b"", room

    def seek(self, offset: int) -> int:
        return offset

    def write(self, data: memoryview) -> int:
        part = bytes(data[: self._room])
        if not part:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.taken, self._room = self.taken + part, self._room - len(part)
        return len(part)


def test_a_part_that_was_not_written_whole_is_not_called_done(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "true-0.parts", Plan.of((256, 256)), 0, FEATURES)
    part = Decoded(np.ones((3, 128, 128), np.int16), np.ones((FEATURES, 128, 128), np.uint8))
    whole_bytes = 4 + 128 * 128 * (6 + FEATURES)
    parts._file.close()
    for room in (whole_bytes, whole_bytes - 1, 5000):
        disk = FullDisk(room)
        parts._file = disk  # type: ignore[assignment]
        if room == whole_bytes:
            parts.put((0, 0), part)
        else:
            with pytest.raises(OSError, match="No space left"):
                parts.put((0, 0), part)
        assert len(disk.taken) == room


def noisy_glass() -> np.ndarray:
    """Texture, and glass of more noise than a PSNR of 41 dB leaves for all of it, were it of one colour."""
    pixels = np.random.default_rng(0).normal(GLASS, 2.5, (1024, 1024, 3)).clip(0, 255).astype(np.uint8)
    pixels[:256, :256] = texture(256, 256)
    return pixels


def test_a_target_is_met_or_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patch_coder(monkeypatch)
    out = tmp_path / "a.cinr"
    with pytest.raises(UsageError, match="--size 300 cannot be reached on this slide"):
        make(noisy_glass(), out, size_bytes=300, effort="fast")
    assert os.listdir(tmp_path) == []  # so that the next try, with another target, is not told to go on with this one
    for wanted_db, blank in ((36.0, True), (41.0, False)):
        report = make(noisy_glass(), out, psnr_db=wanted_db, effort="fast", overwrite=True)
        assert report.psnr_db == pytest.approx(wanted_db, abs=0.1)
        assert (report.blank_chunks > 0) == blank
