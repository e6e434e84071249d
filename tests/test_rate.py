"""How bytes are dealt out to tiles, and how a tile comes to its part."""

from __future__ import annotations

import numpy as np
import pytest

from inrwsi.fit.rate import Budget, Cutter, Rate, Target
from inrwsi.fit.rounds import Rounds


def test_all_tiles_are_cut_alike_and_the_last_takes_what_is_left() -> None:
    """Three tiles of 100, 300 and 200 bytes uncut, of which 300 are wanted: half each."""
    budget = Budget(300, [1, 3, 2])
    aims = []
    for uncut, got in ((100, 50), (300, 160), (200, 90)):
        aims.append(budget.aim(uncut))
        budget.spend(uncut, got)
    assert aims == pytest.approx([50, 150, 90])
    assert budget.spent == 300
    assert budget.surplus == pytest.approx(2)


def test_a_tile_that_takes_more_than_expected_gets_more() -> None:
    budget = Budget(100, [1, 1])
    assert budget.aim(80) == pytest.approx(50)
    budget.spend(80, 50)
    assert budget.surplus == pytest.approx(1.6)
    assert budget.aim(400) == 50


def test_a_cut_is_the_nearest_and_none_where_none_is_needed() -> None:
    """Of a tile of 1000 bytes uncut, a byte less each thousandth; a part of 1200 is never filled up."""

    def at(cut: float) -> dict[str, np.ndarray]:
        return {"a": np.zeros(round(1000 * (1 - cut)), np.uint8)}

    asked = []
    for part, want in ((640, 640), (1200, 1000), (0.5, 0)):
        rate = Rate(lambda arrays: arrays["a"].nbytes, lambda uncut, part=part: asked.append(uncut) or part)
        cutter = Cutter(rate, at)
        cutter.begin()
        assert cutter.finish()["a"].nbytes == pytest.approx(want, abs=1)
    assert asked == [1000, 1000, 1000]
    free = Cutter(None, at)
    free.begin()
    assert (free.cut, free.finish()["a"].nbytes) == (0, 1000)


def test_what_drifted_is_cut_again() -> None:
    size = 1000
    rate = Rate(lambda arrays: arrays["a"].nbytes, lambda uncut: 500)
    cutter = Cutter(rate, lambda cut: {"a": np.zeros(round(size * (1 - cut)), np.uint8)})
    cutter.begin()
    assert cutter.cut == pytest.approx(0.5, abs=1e-3)
    size = 800
    assert cutter.finish()["a"].nbytes == pytest.approx(500, abs=1)


@pytest.mark.parametrize(
    ("option", "value", "payload_bytes", "said"),
    [("size_bytes", 2500, 1500.0, "2,041 bytes"), ("ratio", 4, 1500.0, "4.9"), ("bpp", 1.25, 1562.5, "0.833")],
)
def test_targets(option: str, value: float, payload_bytes: float, said: str) -> None:
    """Of 10,000 bytes and pixels, 1,000 bytes of the file being no payloads. `bpp` is of payloads alone."""
    target = Target(option, value, 10_000, 10_000, "siren")
    assert target.payload_bytes(1000) == payload_bytes
    assert target.met(payload_bytes * 1.019, 1000)
    assert not target.met(payload_bytes * 0.96, 1000)
    assert said in str(target.unreachable(1041, 1000))


@pytest.mark.parametrize(
    ("uncut_bytes", "payload_bytes", "next_round"),
    [
        (1020, 1000, None),  # met
        (985, 985, None),  # met, though nothing had to be cut
        (2000, 1000, 2.0),  # met, but smaller tiles are better than such a cut
        (900, 900, 0.9 / 1.25),  # tiles that take too little uncut: larger ones, with some to spare
        (1030, 925, 0.925),  # cut too far, for numbers that fall all at once: another size, not the same round again
        (1400, 1100, 1.1),
    ],
)
def test_a_round_that_missed_asks_for_another_size(
    uncut_bytes: int, payload_bytes: int, next_round: float | None
) -> None:
    rounds = Rounds(Target("bpp", 8.0, 6000, 2000, "ngp"), None, asked=True, first_bpp=8.0, least_bpp=0.02)
    rounds.begin(0, [1.0, 1.0], [1000, 1000])
    again = False
    for _ in range(2):
        rounds.errors.spend(0, 0)
        rounds.sizes.spend(uncut_bytes, payload_bytes)
        again = again or rounds.probe()
    assert (again or rounds.end()) == (next_round is not None)
    assert rounds.bpp == pytest.approx(8.0 / (next_round or 1.0))


def uneven_tiles() -> list[float]:
    """Of fluorescence: a few tiles are full of nuclei, the others dark."""
    rng = np.random.default_rng(4)
    takes = np.exp(rng.normal(0, 0.7, 80))
    return list(takes / takes.mean() * 0.6)


@pytest.mark.parametrize(("takes", "most"), [([1.0] * 4 + [0.35] * 76, 3.2), (uneven_tiles(), 2.0)])
def test_tiles_that_fill_their_tables_badly_are_seen_early(takes: list[float], most: float) -> None:
    """Tiles that take what they are given to a power of 0.6, and so unlike each other that the first say little.

    Met in few rounds, since the next one shares by what each tile took in this one.
    """
    rounds = Rounds(Target("bpp", 1.0, 10**6, 80_000, "cinr"), None, asked=True, first_bpp=1.0, least_bpp=0.02)
    fitted, again = 0, True
    while again:
        rounds.begin(0, [1.0] * 80, [1000] * 80)
        for share in takes:
            uncut = round(125 * 1.15 * share * rounds.bpp**0.6)
            rounds.sizes.spend(uncut, round(min(uncut, rounds.sizes.aim(uncut))))
            rounds.errors.spend(0, 0)
            fitted += 1
            if again := rounds.probe():
                break
        else:
            again = rounds.end()
    assert rounds.sizes.spent == pytest.approx(10_000, rel=0.02)
    assert fitted <= most * 80
