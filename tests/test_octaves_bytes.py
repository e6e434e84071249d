"""Convolutions of 8-bit numbers: exact, or not used."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from inrwsi.fields import octaves_bytes
from inrwsi.fields.octaves_bytes import ByteLayer, exact
from inrwsi.fields.octaves_fused import FusedNet
from inrwsi.octave_chunks import ChunkCoder
from tests.test_octave_chunks import MODEL
from tests.test_octaves_integer import CPU, STEP, prior, run, same

CONVOLUTION, PRODUCT = (32, 32, 3), (12, 32, 1)
NOT_HERE = pytest.mark.skipif(not exact(CONVOLUTION), reason="this processor has no such instructions")


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    """What this machine can do is asked in each test, and after it."""
    exact.cache_clear()
    yield
    exact.cache_clear()


def rounded(sums: np.ndarray) -> np.ndarray:
    """(n,) whole numbers to the nearest of eight significant bits, of two as near to the even one."""
    unit = 2 ** np.maximum(np.frexp(np.abs(sums).astype(np.float64))[1] - 8, 0)
    return (np.rint(sums / unit) * unit).astype(np.int64)


@NOT_HERE
def test_sums_are_whole_numbers_rounded_once() -> None:
    generator = np.random.default_rng(1)
    weight = generator.integers(-127, 128, (*PRODUCT, 1)).astype(np.int8)
    layer = ByteLayer(weight)
    assert layer.shapes == ((8192, 32), (16384, 32))
    x = generator.integers(0, 256, layer.shapes[0], np.uint8)
    x[:4096] >>= 4  # ties are common among small sums
    sums = x.astype(np.int64) @ weight[:, :, 0, 0].T.astype(np.int64)
    assert (sums != rounded(sums)).mean() > 0.5
    assert (layer.sums(x).double().numpy() == rounded(sums)).all()


@NOT_HERE
def test_a_convolution_sees_its_neighbours() -> None:
    generator = np.random.default_rng(2)
    weight = generator.integers(-127, 128, (*CONVOLUTION, 3)).astype(np.int8)
    layer = ByteLayer(weight)
    (shape,) = layer.shapes
    assert shape == (130, 130, 32)
    x = generator.integers(0, 256, shape, np.uint8)
    found = layer.sums(x).double().numpy()
    assert found.shape == (1, 32, 128, 128)
    for row, column in ((0, 0), (127, 5), (64, 127)):
        near = x[row : row + 3, column : column + 3].astype(np.int64)
        assert (found[0, :, row, column] == rounded(np.einsum("yxc,ocyx->o", near, weight.astype(np.int64)))).all()


@pytest.mark.parametrize(("most", "is_exact"), [(2**15 - 1, False), (2**31 - 1, True)])
def test_a_processor_whose_sums_of_two_are_cut_off_at_16_bits_is_found(
    most: int, is_exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(layer: ByteLayer, weight: np.ndarray) -> None:
        layer.weight = weight[:, :, 0, 0].astype(np.int32)  # type: ignore[attr-defined]
        layer.shapes = ((8192, 32), (16384, 32))

    def in_pairs(layer: ByteLayer, x: np.ndarray) -> torch.Tensor:
        products = (x[:, None].astype(np.int32) * layer.weight).reshape(len(x), -1, 16, 2)  # type: ignore[attr-defined]
        return torch.from_numpy(products.sum(-1).clip(-most - 1, most).sum(-1)).float().bfloat16()

    monkeypatch.setattr(octaves_bytes, "have_instructions", lambda: True)
    monkeypatch.setattr(ByteLayer, "__init__", load)
    monkeypatch.setattr(ByteLayer, "sums", in_pairs)
    assert exact(PRODUCT) == is_exact


def test_layers_that_are_not_exact_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ByteLayer, "sums", lambda layer, x: torch.zeros(1))
    nets = [FusedNet(prior().nets[0], STEP, CPU, fast=fast) for fast in (False, True)]
    assert same(*(run(net, "wrong", (128, 128)) for net in nets))


def test_without_such_convolutions_all_else_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(layer: ByteLayer, weight: np.ndarray) -> None:
        raise AttributeError("'_OpNamespace' 'onednn' object has no attribute 'qconv_prepack'")

    monkeypatch.setattr(ByteLayer, "__init__", missing)
    nets = [FusedNet(prior().nets[0], STEP, CPU, fast=fast) for fast in (False, True)]
    assert same(*(run(net, "missing", (128, 128)) for net in nets))


@pytest.mark.parametrize("lacking", ["avx512", "vnni"])
def test_where_it_takes_a_hundred_times_as_long_it_is_not_used(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("avx512", "vnni"):
        monkeypatch.setattr(torch.cpu, f"_is_{kind}_supported", lambda kind=kind: kind != lacking, raising=False)
    assert not octaves_bytes.have_instructions()
    assert not exact(PRODUCT)


def test_a_processor_without_bfloat16_may_have_them() -> None:
    nets = [FusedNet(prior().nets[0], STEP, CPU, fast=False, in_bytes=in_bytes) for in_bytes in (False, True)]
    assert same(*(run(net, "beside fp32", (128, 128)) for net in nets))


@NOT_HERE
def test_a_decoder_uses_them_without_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[int, ...]] = []
    sums = ByteLayer.sums
    monkeypatch.setattr(ByteLayer, "sums", lambda layer, x: (done.append(x.shape), sums(layer, x))[1])
    monkeypatch.setattr("inrwsi.octave_chunks.fast_bf16", lambda device: False)
    for fast, often in ((None, 17), (False, 0)):
        net = ChunkCoder(MODEL, None, CPU, prior=prior(), fast=fast)._net(0)
        done.clear()
        run(net, "unasked", (128, 128))
        assert len(done) == often


@NOT_HERE
def test_a_whole_chunk_is_done_in_bytes_and_a_part_of_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[int, ...]] = []
    sums = ByteLayer.sums
    net, plain = (FusedNet(prior().nets[0], STEP, CPU, fast=fast) for fast in (True, False))
    monkeypatch.setattr(ByteLayer, "sums", lambda layer, x: (done.append(x.shape), sums(layer, x))[1])
    whole = run(net, "whole", (128, 128))
    assert (done.count((130, 130, 32)), done.count((8192, 32)), done.count((16384, 32))) == (2, 12, 3)
    run(net, "part", (128, 126))
    assert len(done) == 17
    assert same(run(plain, "whole", (128, 128)), whole)
