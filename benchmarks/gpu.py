"""What can only be measured on a GPU, in one command: `python -m benchmarks.gpu [--out DIR]`.

Without CUDA the same steps run on the CPU. Results go to gpu.json, written after every step and whole by rename, so
that a run that is cut short leaves what it has. A GPU machine needs numpy and torch; what else there is `python -m
benchmarks.gpu_carry` brings, and wheels in carried/wheels are put on the path first. tinycudann is used where it is. To
add a measurement, write a function of a `Context` that returns a dict, and list it in `STEPS` with its time budget.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import inrwsi
from inrwsi.fields import encodings
from inrwsi.fields.backends import tcnn
from inrwsi.fields.encodings import HashGridConfig, hash_encode
from inrwsi.fields.field import Tile, decode_block
from inrwsi.fields.models.cinr import CinrConfig
from inrwsi.fields.presets import PAPER_ENCODING

from .plain_hash_grid import plain_encode, plain_gradient

WHOLE_BUDGET_S = 490  # of nine minutes: torch takes a while to begin on a machine that never ran it
PLAIN_GRID = HashGridConfig(levels=5, features=2, log2_table=7, base_resolution=4, per_level_scale=1.5)
SLIDE_PX = 10_000  # side of the paper's crops


@dataclass(frozen=True)
class Context:
    """What a step may use. `deadline` is a `time.monotonic` value; loops over repeats end before it."""

    device: torch.device
    quick: bool
    deadline: float
    out: Path

    @property
    def grid(self) -> HashGridConfig:
        """The paper's grid; a small one of as many levels for a quick run."""
        return HashGridConfig(24, 2, 14, 4, 1.5) if self.quick else PAPER_ENCODING

    def generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)


@dataclass(frozen=True)
class Step:
    """One measurement: `run` returns what goes into the JSON; a false "ok" in it fails the whole run."""

    name: str
    budget_s: float
    run: Callable[[Context], dict[str, Any]]


def random_table(config: HashGridConfig, dtype: torch.dtype, ctx: Context, seed: int = 1) -> Tensor:
    table = torch.empty(config.entry_count, config.features, dtype=dtype, device=ctx.device)
    return table.uniform_(-1, 1, generator=ctx.generator(seed))


def random_positions(count: int, ctx: Context) -> Tensor:
    """(count, 2) float32 in [0, 1], the corners of the square among them."""
    xy = torch.rand(count, 2, device=ctx.device, generator=ctx.generator(2))
    xy[:4] = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], device=ctx.device)
    return xy


def row_positions(side_px: int, ctx: Context) -> Tensor:
    """Centres of a square of pixels in the middle of the slide, in row order: (side_px^2, 2)."""
    along = (torch.arange(side_px, device=ctx.device) + (SLIDE_PX - side_px) // 2 + 0.5) / SLIDE_PX
    y, x = torch.meshgrid(along, along, indexing="ij")
    return torch.stack((x, y), -1).view(-1, 2)


def patch_positions(side_px: int, ctx: Context) -> Tensor:
    """As many pixel centres as `row_positions`, in patches of at most 128x128 anywhere in the slide."""
    patch = min(128, side_px)
    corners = np.random.default_rng(3).integers(0, SLIDE_PX - patch, ((side_px // patch) ** 2, 2))
    local = row_positions(patch, ctx) - (SLIDE_PX - patch) // 2 / SLIDE_PX
    return torch.cat([local + torch.tensor(c / SLIDE_PX, dtype=local.dtype, device=ctx.device) for c in corners])


def encode_and_gradient(table: Tensor, xy: Tensor, config: HashGridConfig, grad_out: Tensor) -> tuple[Tensor, Tensor]:
    table = table.detach().requires_grad_()
    out = hash_encode(table, xy, config)
    (grad,) = torch.autograd.grad(out, table, grad_out)
    return out.detach(), grad


def difference(got: Tensor, expected: Tensor, relative_limit: float) -> dict[str, Any]:
    """Largest absolute difference, also as a share of the largest expected value, against a limit on that share."""
    got, expected = got.detach().cpu().double(), expected.detach().cpu().double()
    largest = (got - expected).abs().max().item()
    relative = largest / max(expected.abs().max().item(), 1e-30)
    return {"max_abs": largest, "relative": relative, "limit": relative_limit, "ok": relative <= relative_limit}


def _all_ok(result: dict[str, Any]) -> dict[str, Any]:
    return result | {"ok": all(part["ok"] for part in result.values())}


def parity_plain(ctx: Context) -> dict[str, Any]:
    """Forward and gradient on the device against plain Python, dense and hashed levels."""
    xy = random_positions(32 if ctx.quick else 256, ctx)
    result = {}
    for dtype, real, limit in ((torch.float32, np.float32, 1e-6), (torch.float16, np.float32, 1e-3)):
        table = random_table(PLAIN_GRID, dtype, ctx)
        grad_out = torch.randn(len(xy), PLAIN_GRID.outputs, device=ctx.device, generator=ctx.generator(4)).to(dtype)
        out, grad = encode_and_gradient(table, xy, PLAIN_GRID, grad_out)
        points = xy.tolist()
        expected = plain_encode(table.cpu().numpy(), points, PLAIN_GRID)
        expected_grad = plain_gradient(grad_out.cpu().numpy(), points, PLAIN_GRID, real)
        name = str(dtype).removeprefix("torch.")
        result[f"forward_{name}"] = difference(out, torch.from_numpy(expected), limit)
        result[f"gradient_{name}"] = difference(grad, torch.from_numpy(expected_grad), limit)
    return _all_ok(result)


def parity_cpu(ctx: Context) -> dict[str, Any]:
    """Forward and gradient by torch operations on the device against the CPU's kernels, 24 levels."""
    config = HashGridConfig(24, 2, 14 if ctx.quick else 19, 4, 1.5)
    xy = random_positions(2_000 if ctx.quick else 100_000, ctx)
    result = {}
    for dtype, limit in ((torch.float32, 1e-5), (torch.float16, 1e-3)):
        table = random_table(config, dtype, ctx)
        grad_out = torch.randn(len(xy), config.outputs, device=ctx.device, generator=ctx.generator(5)).to(dtype)
        on_cpu = encode_and_gradient(table.cpu(), xy.cpu(), config, grad_out.cpu())
        with torch_operations():
            on_device = encode_and_gradient(table, xy, config, grad_out)
        name = str(dtype).removeprefix("torch.")
        result[f"forward_{name}"] = difference(on_device[0], on_cpu[0], 0.0)
        result[f"gradient_{name}"] = difference(on_device[1], on_cpu[1], limit)
    return _all_ok(result)


@contextlib.contextmanager
def torch_operations() -> Iterator[None]:
    """Within it the CPU, too, is served by torch operations, as CUDA is."""
    kernels = encodings.cpu_kernels
    encodings.cpu_kernels = lambda: None  # type: ignore[assignment]
    try:
        yield
    finally:
        encodings.cpu_kernels = kernels


def repeatable(ctx: Context) -> dict[str, Any]:
    """Whether four runs give the same gradient bits: they must on a CPU, and elsewhere in deterministic mode."""
    config = HashGridConfig(24, 2, 14, 4, 1.5)
    table = random_table(config, torch.float32, ctx)
    xy = random_positions(2_000 if ctx.quick else 200_000, ctx)
    grad_out = torch.randn(len(xy), config.outputs, device=ctx.device, generator=ctx.generator(6))

    def same() -> bool:
        first, *others = [encode_and_gradient(table, xy, config, grad_out)[1] for _ in range(4)]
        return all(torch.equal(first, other) for other in others)

    by_default = same()
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        deterministic = same()
    finally:
        torch.use_deterministic_algorithms(before)
    needed = deterministic and (by_default or ctx.device.type != "cpu")
    return {"same_by_default": by_default, "same_with_deterministic_algorithms": deterministic, "ok": needed}


def parity_tcnn(ctx: Context) -> dict[str, Any]:
    """Forward and gradient against tiny-cuda-nn on the same float16 table."""
    if ctx.device.type != "cuda" or not tcnn.available():
        return {"skipped": tcnn.why_not() or "no CUDA device"}
    config = HashGridConfig(24, 2, 19, 4, 1.5)
    module = tcnn.build_encoding(config)
    if module.params.numel() != config.parameter_count:
        return {"parameters": [module.params.numel(), config.parameter_count], "ok": False}
    table = random_table(config, torch.float16, ctx)
    module.params.data.copy_(table.reshape(-1))
    xy = random_positions(100_096, ctx)  # a multiple of 256, the batch granularity of tiny-cuda-nn
    grad_out = torch.randn(len(xy), config.outputs, device=ctx.device, generator=ctx.generator(7)).half()
    out, grad = encode_and_gradient(table, xy, config, grad_out)
    theirs = module(xy)
    theirs.backward(grad_out.to(theirs.dtype))
    # They add in float16, and their exp2f may differ in the last place: a hundredth of a cell at the finest levels.
    forward = difference(theirs, out, 2e-2)
    return _all_ok({"forward": forward, "gradient": difference(module.params.grad.view_as(grad), grad, 5e-2)})


def parity_decode(ctx: Context) -> dict[str, Any]:
    """Pixels of a tile of the `cinr` model on the device against the CPU's: the same bits, native and between."""
    width = 8 if ctx.quick else 32
    config = CinrConfig(
        levels=6, features=4, log2_table=20, base_resolution=8, per_level_scale=1.7, width=width, channels=3,
        table_bits=4, weight_bits=8,
    )  # fmt: skip
    rng = np.random.default_rng(8)
    weights: dict[str, np.ndarray] = {}
    for name, (shape, dtype) in config.slide_tensors().items():
        if name.endswith(".weight"):
            weights[name] = rng.integers(-127, 128, shape).astype(dtype)
        else:
            weights[name] = rng.uniform(1e-3, 2e-3, shape).astype(dtype)
    weights["table.gain"][:] = 18
    table = torch.from_numpy(rng.integers(-7, 8, (config.grid.entry_count, 4))).float()
    tiles = []
    for device in (torch.device("cpu"), ctx.device):
        shared = config.slide_from(weights, device)
        tiles.append(Tile(shared.numbers, table.to(device), shared.gain))
    result = {}
    for finer in (1, 3):
        here, there = (decode_block(config, tile, 512, (40, 60), (96, 64), finer) for tile in tiles)
        result[f"samples_a_pixel_{finer}"] = {
            "differing": int((here != there).sum()),
            "ok": np.array_equal(here, there),
        }
    return _all_ok(result)


def seconds_a_call(run: Callable[[], object], ctx: Context, until: float) -> float:
    """Median of up to ten calls after one to warm up; fewer where `until` comes first, at least one."""
    run()
    times: list[float] = []
    while len(times) < (1 if ctx.quick else 10) and (not times or time.monotonic() < until):
        _synchronise(ctx.device)
        start = time.perf_counter()
        run()
        _synchronise(ctx.device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def throughput(ctx: Context) -> dict[str, Any]:
    """Mpixel/s of the paper's grid, forward and forward with backward into a kept gradient buffer."""
    side_px = 64 if ctx.quick else 1024
    places = {"rows": row_positions(side_px, ctx), "patches": patch_positions(side_px, ctx)}
    buffer = torch.zeros(ctx.grid.entry_count, ctx.grid.features, device=ctx.device)
    result: dict[str, Any] = {"parameters": ctx.grid.parameter_count, "positions": side_px**2}
    for number, dtype in enumerate((torch.float32, torch.float16)):
        table = random_table(ctx.grid, dtype, ctx).requires_grad_()
        for place, (name, xy) in enumerate(places.items()):
            until = time.monotonic() + (ctx.deadline - time.monotonic()) / (4 - 2 * number - place)
            forward_s, both_s = _time_encoding(table, xy, buffer, ctx, until)
            result[f"{name}_{str(dtype).removeprefix('torch.')}"] = {
                "forward_mpx_s": round(len(xy) / forward_s / 1e6, 3),
                "forward_backward_mpx_s": round(len(xy) / both_s / 1e6, 3),
            }
        del table
    return result


def _time_encoding(table: Tensor, xy: Tensor, buffer: Tensor, ctx: Context, until: float) -> tuple[float, float]:
    grad_out = torch.ones(len(xy), ctx.grid.outputs, dtype=table.dtype, device=ctx.device)
    with torch.no_grad():
        forward_s = seconds_a_call(lambda: hash_encode(table, xy, ctx.grid), ctx, (time.monotonic() + until) / 2)
    both_s = seconds_a_call(lambda: hash_encode(table, xy, ctx.grid, buffer).backward(grad_out), ctx, until)
    return forward_s, both_s


def other_step(module: str, name: str) -> Callable[[Context], dict[str, Any]]:
    """A step of another module, which needs what a bare machine may lack: there it says so and is left out."""

    def run(ctx: Context) -> dict[str, Any]:
        try:
            return getattr(importlib.import_module(f".{module}", __package__), name)(ctx)
        except ModuleNotFoundError as error:  # where there is a GPU, what only it can show must be shown
            return {"skipped": f"the package {error.name} is not here", "ok": ctx.device.type == "cpu"}

    return run


STEPS = (
    Step("parity_plain", 30, parity_plain),
    Step("parity_cpu", 40, parity_cpu),
    Step("repeatable", 30, repeatable),
    Step("parity_decode", 30, parity_decode),
    Step("parity_octaves", 20, other_step("gpu_octaves", "parity_octaves")),
    Step("parity_tcnn", 30, parity_tcnn),
    Step("throughput", 70, throughput),
    Step("train_prior", 100, other_step("gpu_octaves", "train_prior")),
    Step("paper", 135, other_step("gpu_paper", "paper")),
)


def use_carried(root: Path) -> None:
    """Let a machine where nothing was installed import this checkout, and the wheels that were carried there.

    Raises:
        subprocess.CalledProcessError: pip does not take them.
    """
    if importlib.util.find_spec("inrwsi.formats") is None:  # an installation puts it there, and cli
        inrwsi.__path__.append(str(root))
    wheels = sorted(map(str, (root / "carried/wheels").glob("*.whl")))
    if wheels:
        folder = root / "carried/site"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--upgrade"]
        subprocess.run([*pip, "--target", str(folder), *wheels], check=True)
        sys.path.append(str(folder))


def machine(device: torch.device) -> dict[str, Any]:
    """The hardware, without names of hosts or users."""
    model = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"cpu": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}


def versions() -> dict[str, str | None]:
    """Versions of what computes; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for name in ("torch", "numpy", "numba", "tinycudann", "inrwsi"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def write_whole(path: Path, report: dict[str, Any]) -> None:
    """Write JSON so that a reader sees the old file or all of the new one."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(report, indent=1) + "\n")
    part.replace(path)


def run_step(step: Step, device: torch.device, quick: bool, end: float, out: Path) -> dict[str, Any]:
    """The step's result, or its error: one broken step must not cost the others their time on a GPU."""
    start = time.monotonic()
    if start >= end:
        return {"skipped": "no time left"}
    try:
        result = step.run(Context(device, quick, min(start + step.budget_s, end), out))
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {error}", "ok": False}
    return result | {"seconds": round(time.monotonic() - start, 2)}


def main(arguments: list[str] | None = None) -> int:
    """Run the steps; 0 when none failed, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.partition("\n")[0])
    default = os.environ.get("OUT", str(Path(__file__).parent / "results"))
    parser.add_argument("--out", type=Path, default=Path(default), help="folder for gpu.json (default: %(default)s)")
    parser.add_argument(
        "--only",
        choices=[step.name for step in STEPS],
        help="run one step, with the time of all of them; the file then holds it alone",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: checks the steps, measures nothing")
    chosen = parser.parse_args(arguments)
    end = time.monotonic() + WHOLE_BUDGET_S
    chosen.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        print("no GPU is here: the steps run on the CPU")
    report = {
        "device": device.type,
        "machine": machine(device),
        "versions": versions(),
        "settings": {"quick": chosen.quick, "only": chosen.only, "whole_budget_s": WHOLE_BUDGET_S},
        "results": {},
    }
    for step in STEPS:
        if chosen.only in (None, step.name):
            if chosen.only:
                step = replace(step, budget_s=WHOLE_BUDGET_S)
            report["results"][step.name] = run_step(step, device, chosen.quick, end, chosen.out)
            write_whole(chosen.out / "gpu.json", report)
            print(f"{step.name}: {json.dumps(report['results'][step.name])}", flush=True)
    return 0 if all(result.get("ok", True) for result in report["results"].values()) else 1


if __name__ == "__main__":
    use_carried(Path(__file__).parent.parent)
    sys.exit(main())
