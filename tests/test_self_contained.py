"""Files that need no prior of the package: the same pixels as with it, targets met, and what the command line says."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from inrwsi import encode_fit
from inrwsi.cli.main import main
from inrwsi.decode import Decoder
from inrwsi.encode_fit import in_file
from inrwsi.errors import Cause, CorruptFile, UnsupportedVersion, UsageError
from inrwsi.fields import octaves_prior
from inrwsi.fit.deltas import pack_deltas, pack_whole
from inrwsi.formats import layout
from inrwsi.formats.container import Container
from inrwsi.formats.writer import ContainerWriter
from tests.octaves_encoded import _Stop, digest, make, psnr, stopping
from tests.test_encode_fit import PLAIN, WH, encoding_of, picture, prefer, small, some_fit  # noqa: F401 - small: the prior here
from tests.test_fit_slide import prior
from tests.test_self_contained_section import LOUD, changed, stored_bytes


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@lru_cache
def files_of(folder: Path) -> tuple[Path, Path]:
    """The picture, encoded with the package's networks: naming its prior, and holding them."""
    plain, whole = folder / "plain.cinr", folder / "whole.cinr"
    make(picture(), plain, quality=60, effort="fast")
    make(picture(), whole, quality=60, effort="fast", self_contained=True)
    return plain, whole


@pytest.fixture
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return files_of(tmp_path_factory.getbasetemp())


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package without priors."""
    monkeypatch.setattr(octaves_prior, "load", lambda _: None)
    monkeypatch.setattr(octaves_prior, "current_sha256", lambda: "0" * 64)


def pixels_of(path: Path) -> np.ndarray:
    with Decoder(path, device="cpu") as decoder:
        return decoder.read_region((0, 0), WH)


def payloads_of(path: Path) -> list[bytes | None]:
    with Container.open(path) as container:
        header = container.header
        return [container.chunk(*header.chunk_at(n)).payload for n in range(header.chunk_count)]


def stored_of(path: Path) -> dict[str, int]:
    with Container.open(path) as container:
        return {kind: stored for kind, _, stored, _ in container.sections()}


def test_only_the_networks_are_more(files: tuple[Path, Path]) -> None:
    plain, whole = files
    assert payloads_of(plain) == payloads_of(whole)
    with Container.open(whole) as container:
        assert container.header.model["prior"] == ""
        assert container.weights() == pack_whole(prior(), None)
    stored, before = stored_of(whole), stored_of(plain)
    assert "WGHT" not in before
    assert stored["WGHT"] == stored_bytes(pack_whole(prior(), None))
    more = stored["WGHT"] + stored["HEAD"] - before["HEAD"] + layout.SECTION.size
    assert whole.stat().st_size - plain.stat().st_size == more


def test_it_decodes_without_a_prior(files: tuple[Path, Path], bare: None) -> None:
    plain, whole = files
    with pytest.raises(UnsupportedVersion, match=f"plain.cinr: made with prior {prior().sha256[:16]}, which this "):
        pixels_of(plain)
    found = pixels_of(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(octaves_prior, "load", lambda _: prior())
        assert (pixels_of(plain) == found).all()
    assert psnr(picture(), found) > 20


def test_info_says_what_is_needed(files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, whole = files
    prefer(monkeypatch, True)
    make(picture(), tmp_path / "fit.cinr", quality=60)
    for path, said in (
        (plain, f"{prior().sha256}, as released"),
        (whole, "none: the file holds all its networks"),
        (tmp_path / "fit.cinr", f"{prior().sha256}, from which the networks of the file differ"),
    ):
        lines = run("info", path).stdout.splitlines()
        assert f"  prior        {said}" in lines
        assert sum("prior" in line for line in lines) == 1


@pytest.mark.parametrize("self_contained", [False, True])
def test_networks_of_a_fit_are_held_too(
    self_contained: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Asked for, or because they cost little of the file."""
    prefer(monkeypatch, True)
    monkeypatch.setattr(encode_fit, "QUANTA", (4,))  # else their cost, which is another, may choose another
    make(picture(), tmp_path / "a.cinr", quality=60)
    wanted = pixels_of(tmp_path / "a.cinr")
    with Container.open(tmp_path / "a.cinr") as container:
        deltas = container.weights()
    assert deltas is not None
    if not self_contained:
        monkeypatch.setattr(encode_fit, "WHOLE_SHARE", 0.999)
    make(picture(), tmp_path / "b.cinr", quality=60, **({"self_contained": True} if self_contained else {}))
    with Container.open(tmp_path / "b.cinr") as container:
        assert container.header.model["prior"] == ""
        assert container.weights() == pack_whole(prior(), deltas) != pack_whole(prior(), None)
    assert payloads_of(tmp_path / "a.cinr") == payloads_of(tmp_path / "b.cinr")
    request.getfixturevalue("bare")
    assert (pixels_of(tmp_path / "b.cinr") == wanted).all()


def test_a_file_of_which_they_are_under_a_hundredth_holds_them() -> None:
    deltas = pack_deltas(prior(), prior().nets, 4, (1,))
    for weights in (None, deltas):
        whole = pack_whole(prior(), weights)
        stored = stored_bytes(whole)
        assert stored > 100_000
        for chunk_bytes, always, held in ((99 * stored, False, False), (99 * stored + 1, False, True), (0, True, True)):
            found = in_file(prior().sha256, weights, chunk_bytes, always_whole=always)
            if held:
                assert (found.prior, found.weights, found.stored_bytes) == ("", whole, stored)
            else:
                assert (found.prior, found.weights) == (prior().sha256, weights)
                assert found.stored_bytes == (43 if weights else 0)


@pytest.mark.parametrize("option", ["size_bytes", "ratio"])
def test_a_target_counts_them(option: str, tmp_path: Path) -> None:
    size = stored_bytes(pack_whole(prior(), None)) + 40_000
    value = {"size_bytes": size, "ratio": picture().size / size}[option]
    report = make(picture(), tmp_path / "a.cinr", effort="fast", self_contained=True, **{option: value})
    assert report.cinr_bytes == pytest.approx(size, rel=0.0201)
    with Container.open(tmp_path / "a.cinr") as container:
        assert container.header.model["prior"] == ""
    with pytest.raises(
        UsageError, match="--size 90,000 cannot be reached on this slide; the nearest that was found is ab"
    ):
        make(picture(), tmp_path / "b.cinr", effort="fast", self_contained=True, size_bytes=90_000)


def test_a_stop_changes_nothing(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "a.cinr"
    how = {"quality": 60, "effort": "fast"}
    with pytest.raises(_Stop):
        make(picture(), out, self_contained=True, progress=stopping("write", 2), **how)
    with pytest.raises(UsageError, match="was begun with --self-contained True, now it is with --self-contained False"):
        make(picture(), out, resume=True, **how)
    make(picture(), out, self_contained=True, resume=True, **how)
    assert digest(out) == digest(files[1])


def test_with_fitted_networks_nothing_is_paid_for_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    """They win by a byte of chunks where the file holds all networks, and must earn their own bytes where not."""
    costs = {0: (5e5, 0.0), 2: (5e5, 0.0), 4: (5e5 - 1, 0.0), 8: (5e5, 0.0)}
    encoding = encoding_of(PLAIN, costs, (4e5, 1e6))
    chosen = encode_fit._cheapest(encoding, PLAIN, prior(), some_fit(), whole=True)
    assert chosen is not None
    assert chosen[1] == 4
    assert encode_fit._cheapest(encoding, PLAIN, prior(), some_fit()) is None


# The command line


def rewritten(path: Path, out: Path, weights: Callable[[bytes], bytes | None]) -> Path:
    """The file with another section of weights."""
    with Container.open(path) as container:
        header = container.header
        with ContainerWriter(out, header, weights=weights(container.weights() or b"")) as writer:
            for number in range(header.chunk_count):
                octave, ij = header.chunk_at(number)
                chunk = container.chunk(octave, ij)
                if chunk.payload is None:
                    writer.put_blank(octave, ij, chunk.colour)
                else:
                    writer.put_chunk(octave, ij, chunk.payload)
            writer.finish()
    return out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda _: None, "the file names no prior, and holds no networks in its place"),
        (lambda raw: raw[:-1], "not safetensors"),
        (lambda _: changed(**LOUD), "the sums of trunk2 reach"),
    ],
)
def test_damage_is_told_with_exit_code_3(
    change: Callable[[bytes], bytes | None], sentence: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    bad = rewritten(files[1], tmp_path / "bad.cinr", change)
    with pytest.raises(CorruptFile, match=sentence) as caught:
        pixels_of(bad)
    assert caught.value.cause is Cause.WEIGHTS
    result = run("decode", bad, "-o", tmp_path / "x.png", "--region", "0,0,64,64", "--device", "cpu")
    assert result.exit_code == 3
    assert "bad.cinr" in result.stderr
    assert sentence in " ".join(result.stderr.split())
    assert not (tmp_path / "x.png").exists()


def test_a_flipped_bit_of_the_section_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    with Container.open(files[1]) as container:
        (at,) = (offset for kind, offset, *_ in container.sections() if kind == "WGHT")
    blob = bytearray(files[1].read_bytes())
    blob[at + 1000] ^= 4
    bad = tmp_path / "bad.cinr"
    bad.write_bytes(blob)
    assert run("verify", bad).exit_code == 3
    assert run("decode", bad, "-o", tmp_path / "x.png", "--device", "cpu").exit_code == 3


def test_the_command_line_makes_one(tmp_path: Path, files: tuple[Path, Path]) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.png")
    out = tmp_path / "a.cinr"
    result = run(
        *("encode", tmp_path / "a.png", "-o", out, "--effort", "fast", "--device", "cpu", "-q", "--self-contained")
    )
    assert result.exit_code == 0, result.output
    assert (pixels_of(out) == pixels_of(files[1])).all()
    with Container.open(out) as container:
        assert container.header.model["prior"] == ""
    result = run("encode", tmp_path / "a.png", "-o", out, "--overwrite", "--model", "cinr", "--self-contained")
    assert result.exit_code == 2
    assert "--self-contained is a setting of model octaves, and the model is cinr" in " ".join(result.stderr.split())
