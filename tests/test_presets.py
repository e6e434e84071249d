"""The paper's model has the paper's size; tiny-cuda-nn is asked for, never needed."""

from __future__ import annotations

import sys
import types
from dataclasses import replace

import pytest
import torch

from inrwsi.errors import BackendUnavailable
from inrwsi.fields.backends import tcnn
from inrwsi.fields.networks import INPUT, DualFlowConfig, dual_flow_layers
from inrwsi.fields.presets import PAPER_ENCODING, PRESETS


def test_paper_has_its_parameters_and_bits_a_pixel() -> None:
    preset = PRESETS["cinr"]
    encoding, network = preset.build("meta")
    table = sum(p.numel() for p in encoding.parameters())
    weights = sum(p.numel() for p in network.parameters())
    parts = {part: sum(w.numel() for w in weights) for part, weights in network.part_parameters().items()}
    assert encoding.table.is_meta
    assert table == preset.encoding.parameter_count == 257_270_128
    assert parts["mlp1"] == 38_912
    assert parts["mlp2"] == 49_152
    assert table + weights == 258_010_224
    assert round((table + weights) * preset.value_bits / (10_000 * 10_000), 2) == 41.28


def test_encodings_and_networks_of_presets_fit_together() -> None:
    for name, preset in PRESETS.items():
        assert preset.encoding is PAPER_ENCODING, name
        assert preset.encoding.outputs == preset.network[0].inputs == 48, name
        assert preset.network[0].after == (INPUT,), name
        assert preset.source, name


@pytest.mark.parametrize(("name", "weights", "layers"), [("ngp", 57_344, 5), ("engp", 475_136, 9)])
def test_the_mlps_have_the_papers_counts(name: str, weights: int, layers: int) -> None:
    """Lee et al., table 1: at 48 inputs and 16 padded outputs, without biases."""
    _, network = PRESETS[name].build("meta")
    assert sum(p.numel() for p in network.parameters()) == network.macs_per_pixel() == weights
    assert [layer.activation.name for layer in network.layers] == ["relu"] * (layers - 1) + ["linear"]


@pytest.fixture
def probe_again() -> object:
    tcnn._probe.cache_clear()
    yield
    tcnn._probe.cache_clear()


@pytest.mark.usefixtures("probe_again")
def test_absent_tiny_cuda_nn_is_an_answer_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tinycudann", None)
    assert tcnn.available() is False
    assert "tinycudann is not installed" in tcnn.why_not()
    with pytest.raises(BackendUnavailable, match="tinycudann is not installed"):
        tcnn.build_encoding(PAPER_ENCODING)


@pytest.mark.usefixtures("probe_again")
def test_tiny_cuda_nn_without_cuda_raises_os_error_and_is_an_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise EnvironmentError(f"{name}: unknown compute capability")  # noqa: UP024 - the name that it raises

    monkeypatch.setattr(tcnn.importlib, "import_module", refuse)
    assert tcnn.available() is False
    assert tcnn.why_not() == "tinycudann cannot be used here (tinycudann: unknown compute capability)"


@pytest.mark.usefixtures("probe_again")
def test_tiny_cuda_nn_is_given_the_same_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.ModuleType("tinycudann")
    fake.Encoding = lambda dims, settings: (dims, settings)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tinycudann", fake)
    assert tcnn.available() is True
    assert tcnn.why_not() == ""
    dims, settings = tcnn.build_encoding(PAPER_ENCODING)
    assert dims == 2
    assert settings == {
        "otype": "HashGrid",
        "n_levels": 24,
        "n_features_per_level": 2,
        "log2_hashmap_size": 24,
        "base_resolution": 4,
        "per_level_scale": 1.5,
        "interpolation": "Linear",
    }


def test_building_a_preset_off_meta_gives_modules_that_run() -> None:
    paper = PRESETS["cinr"]
    network = dual_flow_layers(DualFlowConfig(inputs=4, width=4, channels=1))
    encoding, net = replace(paper, encoding=replace(paper.encoding, levels=2), network=network).build("cpu")
    features = encoding(torch.rand(121, 2)).view(1, 11, 11, 4).permute(0, 3, 1, 2)
    assert net(features).shape == (1, 1, 1, 1)
    assert 0 < encoding.table.abs().max() <= 1e-4
