"""Chunks of model `octaves`: what is decoded is what the encoder saw, by any reader, and damage gets no further."""

from __future__ import annotations

import dataclasses
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from inrwsi.coding import rans, tensors
from inrwsi.fields import octaves_prior
from inrwsi.fields.octaves_integer import IntegerNet, net_of, octave_step
from inrwsi.fields.octaves_model import FEATURES, Decoded, OctavesModel, coarsest_octave
from inrwsi.geometry import octave_wh
from inrwsi.octave_chunks import MOST_SYMBOL, ChunkCoder
from inrwsi.sample import sample_region
from tests import octaves_reference as reference
from tests.octaves_reference import draws
from tests.test_octaves_integer import inputs, prior, said

CPU = torch.device("cpu")
MATRIX = (10000, 10000, 8400, 11800, -3400, -10000, -5200, 12500, -9000)  # orthogonal enough to be told apart
MODEL = OctavesModel("0" * 64, 20 * 1024, MATRIX, (12000, 9000, 13000))
CURRENT = Path(octaves_prior.__file__).parents[1] / "priors" / octaves_prior.CURRENT


def released() -> octaves_prior.Prior:
    found = octaves_prior.load(octaves_prior.current_sha256())
    assert found is not None
    return found


def coder_of(which: octaves_prior.Prior, model: OctavesModel = MODEL, **options: bool) -> ChunkCoder:
    return ChunkCoder(model, None, CPU, prior=which, **options)


PRIORS = ["random", pytest.param("released", marks=pytest.mark.skipif(not CURRENT.is_file(), reason="none released"))]


def chosen(name: str) -> octaves_prior.Prior:
    return released() if name == "released" else prior()


def tissue(wh: tuple[int, int]) -> np.ndarray:
    """(3, h, w) float32 of generated tissue, in the components of MODEL."""
    return MODEL.klt.forward(sample_region((900, 900), wh, size_wh=(2048, 2048), seed=1))


def parent_of(name: str, wh: tuple[int, int]) -> Decoded:
    return Decoded(*inputs(name, -(-wh[1] // 2), -(-wh[0] // 2)))


def plain(decoded: Decoded) -> reference.Chunk:
    """As the reference takes it."""
    assert decoded.features is not None
    return decoded.pixels.astype(np.int64), decoded.features.astype(np.int64)


def same(a: Decoded, b: Decoded) -> bool:
    if (a.features is None) != (b.features is None):
        return False
    features = a.features is None or b.features is None or np.array_equal(a.features, b.features)
    return bool(features and np.array_equal(a.pixels, b.pixels))


def reads_alike(
    which: octaves_prior.Prior, payload: bytes, octave: int, parent: Decoded, wh: tuple[int, int], found: Decoded
) -> None:
    """Whether the reader written from the spec gives these pixels and features."""
    held = reference.read_prior(octaves_prior.pack(which))
    pixels, features, _ = reference.decode(held, MODEL.step, octave, payload, plain(parent), wh)
    assert (found.pixels == pixels).all()
    assert found.pixels.shape == (3, wh[1], wh[0])
    if octave:
        assert (found.features == features).all()
    else:
        assert found.features is None


@pytest.mark.parametrize("which", PRIORS)
@pytest.mark.parametrize(
    ("octave", "wh"), [(0, (24, 20)), (1, (32, 32)), (2, (13, 7)), (7, (1, 1)), (0, (1, 66)), (3, (70, 2)), (0, (5, 3))]
)
def test_a_reader_written_from_the_spec_gives_the_same_bits(which: str, octave: int, wh: tuple[int, int]) -> None:
    coder = coder_of(chosen(which), encoder=True)
    parent, target = parent_of("reader", wh), tissue(wh)
    payload, seen = coder.encode(octave, target, parent)
    found = coder.decode(octave, payload, parent, wh)
    assert same(found, seen)
    reads_alike(chosen(which), payload, octave, parent, wh, found)


@pytest.mark.parametrize("which", PRIORS)
def test_a_whole_slide_of_octaves_by_both_readers(which: str) -> None:
    l0_wh = (75, 44)
    coder, octaves = coder_of(chosen(which), encoder=True), coarsest_octave(l0_wh)
    truth = [tissue(l0_wh)]
    for _ in range(octaves):
        truth.append(coder.below(truth[-1]))
    payload, decoded = coder.encode_root(truth[-1])
    below = reference.decode_root(payload, octave_wh(l0_wh, octaves))
    held = reference.read_prior(octaves_prior.pack(chosen(which)))
    for octave in reversed(range(octaves)):
        payload, decoded = coder.encode(octave, truth[octave], decoded)
        pixels, features, _ = reference.decode(held, MODEL.step, octave, payload, below, octave_wh(l0_wh, octave))
        below = pixels, features
    assert (decoded.pixels == below[0]).all()
    config = dataclasses.asdict(MODEL)
    assert (coder.rgb(decoded) == reference.to_rgb(config, below[0])).all()


@pytest.mark.parametrize("wh", [(256, 256), (3, 256), (256, 1), (255, 129), (1, 1)])
def test_decoding_gives_what_encoding_returned(wh: tuple[int, int]) -> None:
    coder = coder_of(prior(), encoder=True)
    for octave in (0, 1):
        parent = parent_of("round", wh)
        payload, seen = coder.encode(octave, tissue(wh), parent)
        assert same(coder.decode(octave, payload, parent, wh), seen)
        assert same(coder_of(prior(), fast=True).decode(octave, payload, parent, wh), seen)
        assert same(coder_of(prior(), fast=False).decode(octave, payload, parent, wh), seen)


def test_chunks_decode_alike_in_any_company() -> None:
    sizes = [(64, 64), (33, 64), (64, 5), (17, 9)] * 3
    coder = coder_of(prior(), encoder=True)
    parents = [parent_of(f"company {n}", wh) for n, wh in enumerate(sizes)]
    coded = [coder.encode(n % 4, tissue(wh), parents[n]) for n, wh in enumerate(sizes)]
    fresh = coder_of(prior())

    def decode(n: int) -> Decoded:
        return fresh.decode(n % 4, coded[n][0], parents[n], sizes[n])

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(decode, range(len(sizes))))
    assert all(same(a, b) for a, (_, b) in zip(together, coded, strict=True))
    assert all(same(decode(n), coded[n][1]) for n in reversed(range(len(sizes))))


# A slide of 34 x 6 in three octaves, its payloads and what they decode to. The prior's tensors, and so all of it, are
# whole numbers: no machine, thread count or version may ever give another digest.
GOLDEN_WH = (34, 6)
GOLDEN_PAYLOADS = {
    2: (
        "28b52ffd206c6103001ffea901d3fefa00a7ff96022affe9fd9c0000ff3802b5ff200068fe9501eb003eff01000cfee4ff28026cff00"
        "00190145feae0126fd2900330314feac002c0073ff1dfeaf01c7fe1e003f0294ff250186ff71fd4200430012ff8a027bfd5b03a3ffad"
        "fdaffff3ffc60237ff"
    ),
    1: (
        "3cf916090aff89b365bb4898d1ffafbb2c0782f04affc0e7a601accbd83cf87f01d2e4d60107cbff017b3b7ff2ff014a449d01978fde"
        "ed7f1d93a9fcedff84d86c6bc6830117cc04e73d01ba3a9db1a87e730134fdffb3a9d7ffb2349fd801b19b7f01b3f87fa356e07f7b20"
        "94a8d87f01fc019f6302f18201509509fa7f01b59ec301b3ff7f0180fe7f2d6767fc01eb349c75f601fc82b7b001ffff01ff0111ebb5"
        "63030103fb7f01ba395101ed321c9a36a98300a201d82ea8"
    ),
    0: (
        "078b9e0fc40585fdff997cb50168368401f97fab7dad0103b56b9462a2ca27d085fa6ae59b9400500a01dfa8833c34f9ff01bcf9ff1e"
        "e79e060148b401fbff01f5d684b71cf77f01f97b830c87e4ff01fc01b61783f5ff0171e20c8e8a01d3fa7f9cfc6787e37f01ff013199"
        "71b501f67f014f0711a50140969b01e0ff3c97a401df7fed7f01e2a504ae0881d8de7f4e2cf67f0118d186fc47edffbff33718c66648"
        "039987997fc119cf72b537c97e9d84ac19edffc2f208fca008fbffda03014d8582f70ef907f77ff77f01146620caef0884828d373762"
        "b50176cb7fea7fac02e2ffc77fe2ffd0b1e07fc034e97f06dfe1ff12fc7204d4ff0203dfff01ab4c94f97f279133f401e8d8ed59485e"
        "fdfa7cf17fc47f5e4d01884586ff7fbb830296fdff59bbd80b58c2eedffc7ff35ed7920769d67ce87f9ea02052017c6378d87b27d2d2"
        "8a0103967a17f088283e8afe7f010ec83ea8f18efafbff013bedfe743c0152fec3fb7f94f68ee501af8bd208130729011ab30ce2ff6c"
        "f830edf3339797d6b57a02fdff80a1012bff7f011dffff9b750195a53a79e45487fd7f9a029557f37f01e8fc7f0101fc7f017d0effc2"
        "897e77727dcf1fddfff9f4feb000c6edffc57fa27f4fff70ff012f970de27ffe7f01e9f8069e95960dee825ab9eafee738b15e49c5b6"
        "ffc6fccf06feff018904ff93fa47f821ff84099f5d01e75cd3fb065dea017c0c1bcfffe9ff3fadb07c4b69d77b508dae0721905c7bb5"
        "ff0151d07fd5fda399a1c4a7fef8e19d672756015e63ff42047ac26601b5fef3aead8a0f7e8f1c01e1"
    ),
}
GOLDEN_SHA256 = {  # of each octave, and of the RGB
    2: "3a8d610d9cf98846c0a9b6d6879ce04beffffd73dbdd80d47b91aeab6632e84d",
    1: "98bd64e59d193523e01888f759df0f0dd56a194984083e0ceb6af7f30d58d227",
    0: "1dbfa76b47d6ebd73ddd8fccd7028323d4226b353de596eb2f4469ec98f858eb",
    -1: "3b3d533fea1155a5e0cb26669c78a14197629a794b21c9d88519d1dcf43327b5",
}


def golden_payloads() -> dict[int, bytes]:
    """How they were made, without a float: kept to make them again where the format changes before its release."""
    decoded = Decoded(16 * draws("golden root", -500, 500, (3, 2, 9)).astype(np.int16), np.zeros((8, 2, 9), np.uint8))
    units = (decoded.pixels // 16).reshape(-1)
    payloads = {2: tensors.squeeze(np.diff(units, prepend=np.int16(0)).astype("<i2").tobytes())}
    for octave in (1, 0):
        whole: list[tuple[np.ndarray, np.ndarray]] = []

        def coder(number: int, means: np.ndarray, scales: np.ndarray, held: list = whole) -> np.ndarray:
            symbols = said("golden")(number, means, scales)
            held.append((symbols, scales))
            return symbols

        net = IntegerNet(prior().nets[net_of(octave)], octave_step(MODEL.step, octave), CPU)
        w, h = octave_wh(GOLDEN_WH, octave)
        assert decoded.features is not None
        below = [
            np.pad(part, ((0, 0), (0, -(-h // 4) * 2 - part.shape[1]), (0, -(-w // 4) * 2 - part.shape[2])), "edge")
            for part in (decoded.pixels, decoded.features)
        ]
        decoded = net.run(below[0], below[1], coder, hand_up=True).cut(0, 0, w, h)
        symbols, scales = (np.concatenate(parts) for parts in zip(*whole, strict=True))
        payloads[octave] = rans.encode(symbols, scales, prior().tables)
    return payloads


def digest(decoded: Decoded) -> str:
    held = hashlib.sha256(decoded.pixels.astype("<i2").tobytes())
    if decoded.features is not None:
        held.update(decoded.features.tobytes())
    return held.hexdigest()


@pytest.mark.parametrize("fast", [False, True])
def test_golden_payloads_decode_to_their_digests(fast: bool) -> None:
    coder = coder_of(prior(), fast=fast)
    decoded = coder.decode_root(bytes.fromhex(GOLDEN_PAYLOADS[2]), octave_wh(GOLDEN_WH, 2))
    found = {2: digest(decoded)}
    for octave in (1, 0):
        payload = bytes.fromhex(GOLDEN_PAYLOADS[octave])
        wh, parent = octave_wh(GOLDEN_WH, octave), decoded
        decoded = coder.decode(octave, payload, parent, wh)
        found[octave] = digest(decoded)
        reads_alike(prior(), payload, octave, parent, wh, decoded)
    found[-1] = hashlib.sha256(coder.rgb(decoded).tobytes()).hexdigest()
    assert found == GOLDEN_SHA256


def test_golden_payloads_are_made_of_whole_numbers() -> None:
    made = golden_payloads()
    assert {k: made[k].hex() for k in (1, 0)} == {k: GOLDEN_PAYLOADS[k] for k in (1, 0)}
    assert tensors.unsqueeze(made[2], 2000) == tensors.unsqueeze(bytes.fromhex(GOLDEN_PAYLOADS[2]), 2000)


def test_damaged_payloads_are_refused_or_decode() -> None:
    coder, wh = coder_of(released(), encoder=True), (24, 20)  # whose units are all large enough to be seen
    parent = parent_of("damage", wh)
    payload, seen = coder.encode(0, tissue(wh), parent)
    wrong = [payload[:n] for n in range(0, len(payload), 13)]
    wrong += [payload + b"\0", payload + b"\0\0", b"", bytes(5), bytes(9000), b"\xff" * 9001, b"\x10" + bytes(8999)]
    for bit in range(0, 8 * len(payload), 31):
        flipped = bytearray(payload)
        flipped[bit // 8] ^= 1 << bit % 8
        wrong.append(bytes(flipped))
    outcomes = {"refused": 0, "decoded": 0}
    for each in wrong:
        try:
            found = coder.decode(0, each, parent, wh)
        except ValueError:
            outcomes["refused"] += 1
        else:
            outcomes["decoded"] += 1
            assert found.pixels.shape == seen.pixels.shape
            assert not same(found, seen)
    # A state that does not end where it began gives most of them away; the container's checksum gives away all.
    assert outcomes["refused"] > 5 * outcomes["decoded"]


def test_a_symbol_beyond_what_32_bits_hold_is_refused() -> None:
    coder, wh = coder_of(prior()), (4, 4)
    parent, net = parent_of("huge", wh), IntegerNet(prior().nets[0], MODEL.step, CPU)
    for size, refused in ((MOST_SYMBOL, False), (MOST_SYMBOL + 1, True), (2**30, True)):
        for sign in (1, -1):
            whole: list[tuple[np.ndarray, np.ndarray]] = []

            def say(
                _: int, means: np.ndarray, scales: np.ndarray, y: int = sign * size, held: list = whole
            ) -> np.ndarray:
                symbols = np.where(scales == 0, 0, y).astype(np.int32)
                held.append((symbols, scales))
                return symbols

            below, features = parent.pixels, np.asarray(parent.features)
            net.run(below, features, say, hand_up=False)
            symbols, scales = (np.concatenate(parts) for parts in zip(*whole, strict=True))
            payload = rans.encode(symbols, scales, prior().tables)
            if refused:
                with pytest.raises(ValueError, match=f"a coefficient is {size} units from its mean"):
                    coder.decode(0, payload, parent, wh)
            else:
                found = coder.decode(0, payload, parent, wh)
                reads_alike(prior(), payload, 0, parent, wh, found)


def silent() -> octaves_prior.Prior:
    """A prior that is sure of every coefficient."""
    nets = [dict(net) for net in prior().nets]
    for net in nets:
        for p, bands in enumerate((3, 3, 6, 6)):
            bias = net[f"heads.{p}.out.bias"].copy()
            bias[bands:] = -(2**23)
            net[f"heads.{p}.out.bias"] = bias
    return dataclasses.replace(prior(), nets=tuple(nets))


def test_a_chunk_without_a_coded_symbol_is_one_byte() -> None:
    coder, wh = coder_of(silent(), encoder=True), (12, 8)
    parent = parent_of("silent", wh)
    payload, seen = coder.encode(1, tissue(wh), parent)
    assert payload == b"\0"
    assert same(coder.decode(1, payload, parent, wh), seen)
    reads_alike(silent(), payload, 1, parent, wh, seen)
    for wrong in (b"\0\0", b"\1", bytes(8192), bytes(8193), bytes(8194), bytes(10_000)):
        with pytest.raises(ValueError, match="coded symbols"):
            coder.decode(1, wrong, parent, wh)


@pytest.mark.parametrize("unit", [None, 2, 4, 11, 16])
@pytest.mark.parametrize("wh", [(1, 1), (16, 16), (13, 7)])
def test_the_root_is_held_to_half_its_unit(wh: tuple[int, int], unit: int | None) -> None:
    model, target = dataclasses.replace(MODEL, root_unit=unit), tissue(wh)
    coder, unit = coder_of(prior(), model, encoder=True), unit or 16
    payload, seen = coder.encode_root(target)
    found = coder.decode_root(payload, wh)
    assert same(found, seen)
    assert found.features is not None
    assert not found.features.any()
    assert np.abs(found.pixels / 64 - target).max() <= unit / 128 + 1e-4
    pixels, features = reference.decode_root(payload, wh, unit)
    assert (found.pixels == pixels).all()
    assert features.shape == found.features.shape == (FEATURES, wh[1], wh[0])


def test_damaged_roots_are_refused_or_decode() -> None:
    coder, wh = coder_of(prior(), encoder=True), (13, 7)
    payload, _ = coder.encode_root(tissue(wh))
    wrong = [payload[:n] for n in range(len(payload))] + [payload + b"\0", payload + payload]
    for bit in range(8 * len(payload)):
        flipped = bytearray(payload)
        flipped[bit // 8] ^= 1 << bit % 8
        wrong.append(bytes(flipped))
    refused = 0
    for each in wrong:
        try:
            coder.decode_root(each, wh)
        except ValueError:
            refused += 1
    assert refused >= len(payload) + 2
    for raw, sentence in (
        (bytes(6 * 91 - 2), "holds 544 bytes of pixels, should hold 546"),
        (np.full(273, 2001, "<i2").tobytes(), "units from the mean, should be at most 2000"),
        (np.array([-2001] + [0] * 272, "<i2").tobytes(), "a pixel is 2001 units"),
        (bytes(6 * 256 + 1), "should be at most 1536"),
    ):
        with pytest.raises(ValueError, match=sentence):
            coder.decode_root(tensors.squeeze(raw), wh)
    edge = coder.decode_root(tensors.squeeze(np.array([-2000] + [0] * 272, "<i2").tobytes()), wh)
    assert (edge.pixels == -32000).all()
    fine = coder_of(prior(), dataclasses.replace(MODEL, root_unit=11))
    most, more = (tensors.squeeze(np.array([count] + [0] * 272, "<i2").tobytes()) for count in (2909, 2910))
    assert (fine.decode_root(most, wh).pixels == 31999).all()
    with pytest.raises(ValueError, match="a pixel is 2910 units from the mean, should be at most 2909"):
        fine.decode_root(more, wh)


@pytest.mark.parametrize(("equal_step", "unit"), [(4.5, 4), (10.0, 10), (19.9, 16), (1.0, 4)])
def test_the_finer_the_step_the_finer_the_root(equal_step: float, unit: int) -> None:
    assert MODEL.at(round(equal_step * 1024)).root_unit == unit


@pytest.mark.parametrize("unit", [1, 17, 0])
def test_a_root_unit_out_of_range_is_refused(unit: int) -> None:
    with pytest.raises(ValueError, match=f"root_unit is {unit}, should be from 2 to 16"):
        dataclasses.replace(MODEL, root_unit=unit)
