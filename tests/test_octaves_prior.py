"""Priors: what a file of one holds, which one a digest names, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from inrwsi.coding import tensors
from inrwsi.config import ConfigError, from_dict, to_dict
from inrwsi.fields import octaves_prior
from inrwsi.fields.octaves_integer import check_net, net_tensors
from inrwsi.fields.octaves_model import CHUNK_PX, COARSEST_PX, OctavesModel, coarsest_octave
from inrwsi.fields.octaves_prior import load, pack, unpack
from inrwsi.geometry import octave_wh
from tests import octaves_reference as reference
from tests.test_octaves_integer import prior

PRIORS = Path(octaves_prior.__file__).parents[1] / "priors"


def test_a_prior_comes_back_from_its_file() -> None:
    raw = pack(prior())
    found = unpack(raw)
    assert found.sha256 == sha256(raw).hexdigest()
    assert pack(found) == raw
    for n, net in enumerate(found.nets):
        assert net.keys() == net_tensors().keys()
        assert all(np.array_equal(net[name], prior().nets[n][name]) for name in net)
        assert all(np.array_equal(a, prior().analysis[n][name]) for name, a in found.analysis[n].items())
    assert found.units.keys() == octaves_prior.unit_tensors().keys()
    assert (found.tables.frequencies == prior().tables.frequencies).all()
    by_the_spec = reference.read_prior(raw)
    assert sorted(by_the_spec) == sorted(reference.random_tensors(1))
    assert all(np.array_equal(by_the_spec[f"net.2.{name}"], array) for name, array in found.nets[2].items())


def changed(name: str, array: np.ndarray | None) -> bytes:
    held = reference.random_tensors(1)
    if array is None:
        del held[name]
    else:
        held[name] = array
    return tensors.squeeze(tensors.pack(held))


TABLES = reference.random_tensors(1)["tables"]


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "not zstd|its content"),
        (b"PK\3\4 this is no prior", "not zstd"),
        (tensors.squeeze(b"no safetensors"), "not safetensors"),
        (tensors.squeeze(bytes((8 << 20) + 1)), "should be at most 8388608"),
        (changed("net.3.up.bias", None), "'net.3.up.bias' is missing or not one"),
        (changed("net.4.up.bias", np.zeros(32, np.int32)), "'net.4.up.bias' is missing or not one"),
        (changed("net.0.up.bias", np.zeros(31, np.int32)), r"net.0.up.bias is int32\[31\], should be int32\[32\]"),
        (changed("net.0.up.bias", np.zeros(32, np.int16)), "net.0.up.bias is int16"),
        (changed("unit.1.given", np.full(8, np.nan, np.float32)), "unit.1.given holds a value that is not finite"),
        (changed("tables", TABLES[:, 1:-1].copy()), "tables is"),
        (changed("tables", np.where(TABLES == 0, TABLES, TABLES - 1)), "frequencies of scale 0 sum to"),
    ],
)
def test_what_is_no_prior_is_refused(raw: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        unpack(raw)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of priors of a package that has none."""
    monkeypatch.setattr(octaves_prior, "files", lambda name: tmp_path / name)
    folder = tmp_path / "inrwsi" / "priors"
    folder.mkdir(parents=True)
    load.cache_clear()
    yield folder
    load.cache_clear()


def test_priors_are_found_by_their_digest(package: Path) -> None:
    raw = pack(prior())
    digest = sha256(raw).hexdigest()
    assert load(digest) is None
    load.cache_clear()
    path = package / f"{digest[:16]}{octaves_prior.SUFFIX}"
    path.write_bytes(raw)
    (package / octaves_prior.CURRENT).write_text(f"{digest}\n")
    assert octaves_prior.current_sha256() == digest
    found = load(digest)
    assert found is not None
    assert found.sha256 == digest
    assert load(digest) is found
    assert load("0" * 64) is None
    # A digest that only begins like one that is here is of another prior, which this build lacks.
    assert load(digest[:16] + "0" * 48) is None


def test_a_damaged_prior_of_the_package_is_refused(package: Path) -> None:
    raw = pack(prior())
    digest = sha256(raw).hexdigest()
    (package / f"{digest[:16]}{octaves_prior.SUFFIX}").write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"prior {digest[:16]} does not have its SHA-256; install inrwsi again"):
        load(digest)


@pytest.mark.skipif(not (PRIORS / octaves_prior.CURRENT).is_file(), reason="none released")
def test_released_priors_are_whole_and_within_their_bounds() -> None:
    assert load(octaves_prior.current_sha256()) is not None
    for path in PRIORS.glob(f"*{octaves_prior.SUFFIX}"):
        raw = path.read_bytes()
        assert sha256(raw).hexdigest()[:16] == path.stem
        assert len(raw) < 2 << 20
        for net in unpack(raw).nets:
            check_net(net)


def test_tensors_are_those_that_the_spec_lists() -> None:
    spec = (Path(__file__).parents[1] / "formats" / "SPEC.md").read_text(encoding="utf-8")
    rest = spec.split("### B.3")[1].split("### B.4")[0].split("The rest serves encoders alone")[1]
    analysis, units = rest.split("All of these MUST be finite")[0].split("`unit.n.T`")
    for name, (shape, _) in octaves_prior.analysis_tensors().items():
        listed = re.search(rf"`{re.escape(name)}` \(([\d, ]+)\)", analysis)
        assert listed, name
        assert tuple(int(v) for v in listed[1].split(",")) == shape
    named = set(re.findall(r"`([\w.]+)`", units))
    own = {name[2:] for name in octaves_prior.unit_tensors() if name.startswith("0.")}
    assert {name.replace("heads.0.", "heads.p.") for name in own if not re.match(r"heads\.[1-3]", name)} == named
    assert len(named) == 9


MODEL = OctavesModel("ab" * 32, 2048, (16384, 0, 0, 0, 16384, 0, 0, 0, -16385), (0, 16320, 8000))


def test_the_header_of_the_model_is_strict() -> None:
    for model in (MODEL, replace(MODEL, own_steps=(4, 64)), replace(MODEL, least_step=32)):
        assert from_dict(OctavesModel, to_dict(model)) == model
    assert MODEL.klt.matrix == ((16384, 0, 0), (0, 16384, 0), (0, 0, -16385))
    assert MODEL.klt.mean == MODEL.mean
    for key, value in (
        ("name", "cinr"),
        ("prior", "AB" * 32),
        ("prior", "ab" * 31),
        ("prior", "../" + "a" * 61),
        ("step", 511),
        ("step", 204801),
        ("step", 2048.0),
        ("matrix", [0] * 8),
        ("matrix", [16386] + [0] * 8),
        ("mean", [0, 0]),
        ("mean", [-1, 0, 0]),
        ("mean", [0, 0, 16321]),
        ("mean", [0, True, 0]),
        ("steps", "active"),
        ("steps", ""),
        ("steps", 8),
        ("scales", "shift"),
        ("own_steps", []),
        ("own_steps", [16] * 33),
        ("own_steps", [3]),
        ("own_steps", [16, 65]),
        ("own_steps", [16.0]),
        ("least_step", 31),
        ("least_step", 257),
        ("least_step", 64.0),
        ("more", 1),
    ):
        with pytest.raises(ConfigError, match=key):
            from_dict(OctavesModel, {**to_dict(MODEL), key: value})


def test_the_coarsest_octave_is_the_first_that_is_small() -> None:
    assert CHUNK_PX % COARSEST_PX == 0
    for l0_wh, expected in (
        ((1, 1), 1), ((16, 16), 1), ((32, 1), 1), ((33, 1), 2), ((1, 100_000), 13), ((2**40, 1), 36)
    ):  # fmt: skip
        found = coarsest_octave(l0_wh)
        assert found == expected
        assert max(octave_wh(l0_wh, found)) <= COARSEST_PX
        assert found == 1 or max(octave_wh(l0_wh, found - 1)) > COARSEST_PX
