"""Speed and size of the entropy coder, beside constriction's ANS coder on the same symbols in the same run.

    python -m benchmarks.entropy_speed [--symbols 147456] [--repeats 20] [--seed 0] [--out DIR]

Symbols are rounded logistic variables in 63 scales from 0.05 to 20, near ones of like scale, a part of them skipped,
and read as those that a trellis chose: the row of each follows from the ones before it. One core each. constriction
gets the easier task: the symbols of each row in one call, the skipped ones left out. The JSON goes to
DIR/entropy_speed.json.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np

from inrwsi.coding import trellis
from inrwsi.coding.rans import Decoder, encode
from inrwsi.coding.tables import TOTAL, FrequencyTables, logistic_pmf, quantise_pmf, quantiser_rows
from inrwsi.config import to_dict
from inrwsi.job import write_whole

from .probe import machine

CHUNK_SYMBOLS = 147_456  # nine coefficients at each of 128 x 128 places
MEAN_LOG_SCALES = {"sparse": -4.0, "usual": -3.0, "busy": -2.2, "densest": -1.5}
SCALES = np.geomspace(0.05, 20, 63)
LIMIT = 127


@click.command()
@click.option("--symbols", type=click.IntRange(1000), default=CHUNK_SYMBOLS, show_default=True, help="In a stream.")
@click.option("--repeats", type=click.IntRange(1), default=20, show_default=True, help="The fastest counts.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True, help="Folder."
)
def main(symbols: int, repeats: int, seed: int, out: Path) -> None:
    """Time both coders on four kinds of stream and print millions of symbols a second."""
    streams = throughput(symbols, seed, repeats=repeats)
    click.echo("stream    bits/symbol   decode  encode   constriction decode  encode Msymbol/s   bytes: ours  theirs")
    for name, row in streams.items():
        click.echo(
            f"{name:10}{row['bits_per_symbol']:11.3f}{row['decode_msymbol_s']:9.0f}{row['encode_msymbol_s']:8.0f}"
            f"{row['constriction_decode_msymbol_s']:22.0f}{row['constriction_encode_msymbol_s']:8.0f}"
            f"{row['payload_bytes']:24}{row['constriction_bytes']:8}"
        )
    record = {
        "command": f"python -m benchmarks.entropy_speed --symbols {symbols} --repeats {repeats} --seed {seed}",
        "settings": {"symbols": symbols, "repeats": repeats, "seed": seed, "threads": 1},
        "machine": to_dict(machine()),
        "versions": {name: version(name) for name in ("inrwsi", "numba", "numpy", "constriction")},
        "streams": streams,
    }
    write_whole(out / "entropy_speed.json", json.dumps(record, indent=1).encode() + b"\n")


def throughput(n_symbols: int, seed: int, *, repeats: int = 20) -> dict[str, dict[str, Any]]:
    """Millions of symbols a second (skipped ones too), bytes, and bits a symbol, for each of `MEAN_LOG_SCALES`."""
    return {name: measure(stream(n_symbols, seed, mean), repeats) for name, mean in MEAN_LOG_SCALES.items()}


@dataclass(frozen=True)
class Stream:
    """Symbols (n,) int32, their scale indices (n,) uint8, which are of the second quantiser, and the tables of both."""

    symbols: np.ndarray
    scales: np.ndarray
    second: np.ndarray
    tables: FrequencyTables

    @property
    def rows(self) -> np.ndarray:
        """(n,) uint8, of the tables."""
        return quantiser_rows(self.scales, self.second)


def stream(n: int, seed: int, mean_log_scale: float) -> Stream:
    """Symbols as a trellis might have chosen them."""
    rows = quantise_pmf(logistic_pmf(np.concatenate(([1.0], SCALES)), LIMIT))
    tables = FrequencyTables.from_frequencies(np.concatenate((rows, rows)))
    rng = np.random.default_rng(seed)
    around = np.repeat(rng.normal(mean_log_scale, 1.2, n // 16 + 1), 16)[:n] + rng.normal(0, 0.4, n)
    scales = np.clip(np.searchsorted(np.log(SCALES), around) + 1, 1, 63).astype(np.uint8)
    symbols = np.clip(np.rint(rng.logistic(size=n) * SCALES[scales - 1]), -LIMIT, LIMIT).astype(np.int32)
    skipped = (np.repeat(rng.random(n // 16 + 1), 16)[:n] < 0.3) & (scales < 20)
    symbols[skipped], scales[skipped] = 0, 0
    # constriction's models hold no escape: what has no frequency is left out of both
    symbols[tables.frequencies[scales, symbols + LIMIT] == 0] = 0
    return Stream(symbols, scales, walked(symbols, scales), tables)


def walked(symbols: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """(n,) uint8: 1 where the walk through the symbols before it leads to the second quantiser."""
    second, states = np.zeros(len(symbols), np.uint8), [0] * trellis.PATHS
    walk = trellis.WALK.tolist()
    for count, i in enumerate(np.flatnonzero(scales).tolist()):
        path = count % trellis.PATHS
        second[i] = states[path] & 1
        states[path] = walk[states[path]][int(symbols[i]) & 1]
    return second


def measure(given: Stream, repeats: int) -> dict[str, Any]:
    """One stream, both coders by turns, so that what else the machine does falls on both."""
    symbols, scales, tables, rows = given.symbols, given.scales, given.tables, given.rows
    payload = encode(symbols, rows, tables)
    coded = np.unique(rows[scales > 0]).tolist()
    by_scale = {row: symbols[(rows == row) & (scales > 0)] + LIMIT for row in coded}
    models = constriction_models(tables)
    theirs = constriction_encode(by_scale, models)
    if not np.array_equal(ours_decode(payload, scales, tables), trellis.values(symbols, given.second)):
        raise RuntimeError("our coder did not give its symbols back")
    found = constriction_decode(theirs, by_scale, models)
    if any(not np.array_equal(found[row], part) for row, part in by_scale.items()):
        raise RuntimeError("constriction did not give its symbols back")
    seconds = fastest(
        {
            "decode": lambda: ours_decode(payload, scales, tables),
            "encode": lambda: encode(symbols, rows, tables),
            "constriction_decode": lambda: constriction_decode(theirs, by_scale, models),
            "constriction_encode": lambda: constriction_encode(by_scale, models),
        },
        repeats,
    )
    return {
        "bits_per_symbol": round(8 * len(payload) / symbols.size, 5),
        "skipped_share": round(float((scales == 0).mean()), 4),
        "zero_share": round(float((symbols == 0).mean()), 4),
        **{f"{name}_msymbol_s": round(symbols.size / s / 1e6, 1) for name, s in seconds.items()},
        "payload_bytes": len(payload),
        "constriction_bytes": theirs.nbytes,
        "ideal_bytes": round(float(tables.bits()[rows, symbols + LIMIT].sum()) / 8, 1),
    }


def fastest(work: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Least seconds of each."""
    seconds = dict.fromkeys(work, float("inf"))
    for _ in range(repeats):
        for name, run in work.items():
            began = time.perf_counter()
            run()
            seconds[name] = min(seconds[name], time.perf_counter() - began)
    return seconds


def ours_decode(payload: bytes, scales: np.ndarray, tables: FrequencyTables) -> np.ndarray:
    """What all symbols stand for, with the check at the end."""
    decoder = Decoder(payload, tables)
    values = decoder.decode(scales, trellis=True)
    decoder.finish()
    return values


def constriction_models(tables: FrequencyTables) -> list[Any]:
    """A model of each row, of the same probabilities."""
    import constriction

    return [constriction.stream.model.Categorical(row / TOTAL, perfect=False) for row in tables.frequencies]


def constriction_encode(by_scale: dict[int, np.ndarray], models: list[Any]) -> np.ndarray:
    """uint32 words of the columns of each scale."""
    import constriction

    coder = constriction.stream.stack.AnsCoder()
    for row, columns in by_scale.items():
        coder.encode_reverse(columns, models[row])
    return coder.get_compressed()


def constriction_decode(words: np.ndarray, by_scale: dict[int, np.ndarray], models: list[Any]) -> dict[int, np.ndarray]:
    """The columns of each scale; of `by_scale` only their numbers are looked at."""
    import constriction

    coder = constriction.stream.stack.AnsCoder(words)
    return {row: coder.decode(models[row], columns.size) for row, columns in reversed(by_scale.items())}


if __name__ == "__main__":
    main()
