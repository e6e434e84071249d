"""Rounds on made-up slides: which bits a pixel they try for a PSNR, and what is said where none will do."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from inrwsi.errors import UsageError
from inrwsi.fields.models import config_class
from inrwsi.fit.quality import Quality, Round, psnr_db, squared_error
from inrwsi.fit.rate import Budget, Cutter, Error, Rate, Target
from inrwsi.fit.rounds import ROUNDS, Rounds, tile_px_of
from inrwsi.options import EncodeOptions

PX, TILES = 128 * 128, 40
SAMPLES = 3 * PX * TILES * 2  # half of the slide is blank


def goal(value: float, blank_error: float = 0.0) -> Quality:
    return Quality(value, SAMPLES, 255, blank_error, "siren")


def run(rounds: Rounds, tile_db: Callable[[float, int], float]) -> list[int]:
    """Tiles fitted in each round, of a slide whose tile n has PSNR `tile_db(bpp, n)` and is cut as the budget says."""
    fitted = []
    while True:
        rounds.begin(1000, [1.0] * TILES, [PX] * TILES)
        fitted.append(0)
        again = False
        for n in range(TILES):
            found = round(3 * PX * 255**2 / 10 ** (tile_db(rounds.bpp, n) / 10))
            rounds.errors.spend(found, max(found, round(rounds.errors.aim(found))))
            uncut = round(rounds.bpp * 1.05 * PX / 8)
            rounds.sizes.spend(uncut, round(rounds.bpp * PX / 8))
            fitted[-1] += 1
            again = rounds.probe()
            if again:
                break
        if not (again or rounds.end()):
            return fitted


def rounds_of(quality: Quality, least_bpp: float = 0.1) -> Rounds:
    target = Target("bpp", 1.0, SAMPLES, PX * TILES, "siren")
    first_bpp = quality.first_bpp(least_bpp)
    return Rounds(target, quality, asked=True, first_bpp=first_bpp, least_bpp=least_bpp)


def uneven(at_1_bpp: float, slope: float) -> Callable[[float, int], float]:
    """Tiles within 3 dB of each other."""
    noise = np.random.default_rng(0).uniform(-1.5, 1.5, TILES)
    return lambda bpp, n: at_1_bpp + slope * math.log2(bpp) + noise[n]


@pytest.mark.parametrize("wanted", [25.0, 32.0, 38.0])
@pytest.mark.parametrize(("at_1_bpp", "slope"), [(26, 3), (31, 4), (36, 6)])
def test_a_psnr_is_met_in_few_rounds(wanted: float, at_1_bpp: float, slope: float) -> None:
    quality = goal(wanted)
    rounds = rounds_of(quality)
    fitted = run(rounds, uneven(at_1_bpp, slope))
    assert quality.db(rounds.errors.spent) == pytest.approx(wanted, abs=0.02)
    assert fitted[-1] == TILES
    assert sum(fitted[:-1]) <= TILES
    assert rounds.number + 1 == len(fitted) <= 5
    # tiles were cut: the round gave more than was asked, and not much more
    assert -0.05 <= quality.db(rounds.errors.uncut) - wanted < 4


def test_glass_takes_its_part_of_the_error() -> None:
    """30 dB of the slide are an error of 195.1 a sample; 50 in the half that is glass leave 340.2 to the tiles."""
    quality = goal(30, 50 * SAMPLES / 2)
    assert quality.tiles_error / (SAMPLES / 2) == pytest.approx(2 * 255**2 / 1000 - 50)
    assert quality.db(quality.tiles_error) == pytest.approx(30)
    assert psnr_db(65.025 * 30, 30, 255) == pytest.approx(30)
    assert psnr_db(0, 30, 255) == math.inf
    assert psnr_db(1.0, 1, 65535) == pytest.approx(96.33, abs=0.005)
    assert squared_error(np.array([[0, 255]], np.uint8), np.array([[255, 250]], np.uint8)) == 255**2 + 25


def test_what_no_round_reaches_is_said_at_once() -> None:
    """Quality that stands still at 33 dB, whatever the bits: a few tiles of a few rounds, up to the most bits."""
    quality = goal(40)
    rounds = rounds_of(quality)
    with pytest.raises(
        UsageError, match=r"--psnr 40 cannot be reached on this slide with model siren; .* about 3[56]\."
    ):
        run(rounds, lambda bpp, n: 33.0)
    assert rounds.number < ROUNDS
    assert rounds.errors.seen == 3
    assert rounds.bpp == 24


def test_cuts_that_are_too_coarse_are_tried_with_other_bits() -> None:
    """Tiles of a first round that stay 0.5 dB too good whatever is cut: a fifth less bits come next."""
    rounds = rounds_of(goal(31))
    rounds.begin(1000, [1.0], [PX * TILES])
    found = round(rounds.errors.wanted / 10**0.05)
    rounds.errors.spend(found, found)
    rounds.sizes.spend(1, 1)
    assert not rounds.probe()
    assert rounds.end()
    assert (rounds.number, rounds.bpp) == (1, pytest.approx(1 / 1.2))


def test_the_least_that_there_is_is_cut() -> None:
    """A model that has 33 dB with the fewest bits that it can have is not fitted twice."""
    rounds = rounds_of(goal(28), least_bpp=3.0)
    assert rounds.bpp == 3
    assert run(rounds, lambda bpp, n: 33.0) == [TILES]
    assert goal(28).db(rounds.errors.spent) == pytest.approx(28, abs=0.01)


def test_the_next_bits_lie_on_the_line() -> None:
    quality = goal(34)
    assert quality.next_bpp([Round(1.0, 30.5, 3)], 0.1) == pytest.approx(
        2.0
    )  # 4 dB for twice the bits, and 0.5 to spare
    assert quality.next_bpp([Round(1.0, 28.5, 3), Round(2.0, 31.5, 3)], 0.1) == pytest.approx(4.0)
    assert quality.next_bpp([Round(1.0, 28.5, 3), Round(2.0, 30.5, 6)], 0.1) == pytest.approx(4.0)  # other tiles
    assert quality.next_bpp([Round(1.0, 10.0, 3)], 0.1) == 4.0
    assert quality.next_bpp([Round(1.0, 50.0, 3)], 0.7) == 0.7
    assert quality.next_bpp([Round(20.0, 30.0, 3)], 0.1) == 24


def test_rounds_go_on_from_their_state() -> None:
    quality = goal(32)
    whole, begun = rounds_of(quality), rounds_of(quality)
    run(whole, uneven(26, 3))
    begun.restore({**whole.state, "rounds": whole.state["rounds"][:-1]})
    run(begun, uneven(26, 3))
    assert begun.state == whole.state


def test_a_tile_is_cut_to_its_error() -> None:
    """Error of 100,000 uncut, and twice that for each tenth; its bytes ask for a cut of 0.1. 380,000 ask for 0.193."""

    def at(cut: float) -> dict[str, np.ndarray]:
        return {"cut": np.array([cut])}

    def of(arrays: dict[str, np.ndarray]) -> int:
        return round(1e5 * 2 ** (10 * arrays["cut"].item()))

    def size(arrays: dict[str, np.ndarray]) -> int:
        return round(1000 * (1 - arrays["cut"].item()))

    def cut_for(allowed: int) -> float:
        cutter = Cutter(Rate(size, lambda n: 900.0, Error(of, lambda n: allowed)), at)  # type: ignore[arg-type]
        cutter.begin()
        assert cutter.cut == pytest.approx(0.1, abs=1e-3)
        return float(cutter.finish()["cut"].item())

    assert cut_for(380_000) == pytest.approx(0.1926, abs=1.5e-3)
    assert cut_for(201_000) == cut_for(50_000) == pytest.approx(0.1, abs=1e-3)  # what was cut stays cut


def test_a_perfect_tile_has_no_part() -> None:
    budget = Budget(100, [1, 1])
    assert budget.aim(0) == 1
    budget.spend(0, 0)
    assert budget.aim(10) == 100


@pytest.mark.parametrize(
    ("name", "asked", "tile_px"),
    [
        ("siren", {}, 128),
        ("siren", {"bpp": 1.0}, 128),
        ("siren", {"ratio": 512}, 256),
        ("inif", {"size_bytes": 24_576}, 256),
        ("fourier", {"ratio": 512}, 1024),
        ("cinr", {"ratio": 512}, 512),
        ("siren", {"psnr_db": 12}, 128),
    ],
)
def test_a_small_target_has_large_tiles(name: str, asked: dict[str, float], tile_px: int) -> None:
    """Of a slide of 2048 x 2048 pixels, 512 times smaller is 0.047 bits a pixel; SIREN takes 0.083 in tiles of 128."""
    options = EncodeOptions(name, **asked)  # type: ignore[arg-type]
    assert tile_px_of(config_class(name), options, (2048, 2048), 3) == tile_px


@pytest.mark.parametrize(("ratio", "tile_px"), [(60, 256), (150, 512), (250, 512)])
def test_cut_tiles_take_whole_networks(ratio: float, tile_px: int) -> None:
    """Of 350 x 300 pixels four tiles of 256 hold four networks, in one of 512 there is one; and a file has a header."""
    options = EncodeOptions("conv-inr", ratio=ratio)
    assert tile_px_of(config_class("conv-inr"), options, (350, 300), 3) == tile_px
