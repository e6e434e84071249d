"""The GPU benchmark runs anywhere, finds a wrong encoding, and keeps what it has when a step breaks."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from inrwsi.benchmarks import gpu

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def _results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "gpu.json").read_text())


def test_quick_run_writes_every_step_and_says_that_no_gpu_is_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main(["--quick", "--out", str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out.startswith("no GPU is here")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["gpu.json", "prior.safetensors"]
    report = _results(tmp_path / "new")
    assert report["device"] == "cpu"
    assert report["versions"]["torch"] == torch.__version__
    assert report["settings"]["quick"] is True
    results = report["results"]
    assert list(results) == [step.name for step in gpu.STEPS]
    for part in ("forward_float32", "forward_float16", "gradient_float32", "gradient_float16"):
        assert results["parity_cpu"][part]["max_abs"] == 0.0
    assert results["parity_plain"]["forward_float32"]["max_abs"] == 0.0
    assert results["repeatable"]["same_by_default"] is True
    assert "skipped" in results["parity_tcnn"]
    assert results["throughput"]["positions"] == 4096
    octaves = {name: value for name, value in results["parity_octaves"].items() if isinstance(value, dict)}
    assert len(octaves) == 2 * 3 + 4 * 3
    assert all(entry["ok"] and entry["device_ms"] > 0 for entry in octaves.values())
    assert min(octaves[f"step_8_{tune}"]["payload_bytes_of_device"] for tune in ("balanced", "psnr", "ms-ssim")) > 200
    assert results["train_prior"]["steps"] == 2
    assert results["train_prior"]["loss_last_tenth"] > 0
    paper = results["paper"]
    assert (paper["steps"], paper["epochs"], len(paper["points"])) == (4, 4, 4)
    assert paper["parameters"] == 740_096 + 33_344
    assert paper["points"][-1]["psnr_db"] > paper["points"][0]["psnr_db"] + 0.1
    assert paper["seconds_to"] == {"34.5": None, "37.4": None}
    assert results["throughput"]["patches_float16"]["forward_backward_mpx_s"] > 0


@pytest.mark.parametrize("name", ["parity_plain", "parity_cpu"])
def test_a_wrong_encoding_fails_the_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = gpu.hash_encode
    wrong_from = 2 if name == "parity_cpu" else 1  # parity_cpu calls it twice a dtype: CPU kernels first
    calls = []

    def slightly_wrong(*args: Any) -> torch.Tensor:
        calls.append(1)
        return right(*args) * (1.0 if len(calls) < wrong_from else 1.01)

    monkeypatch.setattr(gpu, "hash_encode", slightly_wrong)
    assert gpu.main(["--quick", "--only", name, "--out", str(tmp_path)]) == 1
    results = _results(tmp_path)["results"]
    assert list(results) == [name]
    assert results[name]["ok"] is False
    assert results[name]["forward_float32"]["ok"] is False


def test_a_broken_step_is_recorded_and_the_next_still_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(ctx: gpu.Context) -> dict[str, Any]:
        raise RuntimeError("out of memory")

    steps = (gpu.Step("broken", 1, broken), gpu.Step("fine", 1, lambda ctx: {"answer": 42}))
    monkeypatch.setattr(gpu, "STEPS", steps)
    monkeypatch.setenv("OUT", str(tmp_path))
    assert gpu.main([]) == 1
    results = _results(tmp_path)["results"]
    assert results["broken"]["error"] == "RuntimeError: out of memory"
    assert results["fine"]["answer"] == 42


def test_steps_know_their_deadline_and_are_left_out_when_time_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = gpu.Step("deadline", 5, lambda ctx: {"deadline": ctx.deadline})
    cpu, now = torch.device("cpu"), 100.0
    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=lambda: now))
    assert gpu.run_step(step, cpu, True, now + 60, tmp_path)["deadline"] == now + 5
    assert gpu.run_step(step, cpu, True, now + 2, tmp_path)["deadline"] == now + 2
    assert gpu.run_step(step, cpu, True, now - 1, tmp_path) == {"skipped": "no time left"}
    assert sum(s.budget_s for s in gpu.STEPS) < gpu.WHOLE_BUDGET_S < 9 * 60


def test_a_step_alone_has_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = gpu.Step("deadline", 5, lambda ctx: {"left_s": ctx.deadline - time.monotonic()})
    monkeypatch.setattr(gpu, "STEPS", (step,))
    assert gpu.main(["--only", "deadline", "--out", str(tmp_path)]) == 0
    assert gpu.WHOLE_BUDGET_S - 5 < _results(tmp_path)["results"]["deadline"]["left_s"] <= gpu.WHOLE_BUDGET_S


def test_positions_are_pixel_centres_inside_the_slide(tmp_path: Path) -> None:
    ctx = gpu.Context(torch.device("cpu"), True, 0.0, tmp_path)
    for xy in (gpu.row_positions(256, ctx), gpu.patch_positions(256, ctx)):
        assert xy.shape == (65_536, 2)
        assert xy.min() >= 0
        assert xy.max() <= 1
        centres = xy.double() * gpu.SLIDE_PX % 1
        assert (centres - 0.5).abs().max() < 2e-3
    rows = gpu.row_positions(256, ctx) * gpu.SLIDE_PX
    assert rows[1].tolist() == pytest.approx([4873.5, 4872.5], abs=2e-3)  # x first, then y


def test_runs_without_the_packages_that_a_gpu_machine_lacks(tmp_path: Path) -> None:
    absent = [
        "numba",
        "rich",
        "click",
        "openslide",
        "tifffile",
        "imagecodecs",
        "zstandard",
        "safetensors",
        "crc32c",
        "PIL",
    ]
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
        "import torch; torch.cuda.is_available = lambda: False\n"
        "from inrwsi.benchmarks.gpu import main\n"
        f"sys.exit(main(['--quick', '--only', 'parity_plain', '--out', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert _results(tmp_path)["results"]["parity_plain"]["forward_float32"]["max_abs"] == 0.0


def test_a_package_that_is_missing_beside_a_gpu_fails_the_run(tmp_path: Path) -> None:
    step = gpu.Step("absent", 1, gpu.other_step("no_such_module", "run"))
    for device, ok in (("cpu", True), ("cuda", False)):
        result = gpu.run_step(step, torch.device(device), True, time.monotonic() + 9, tmp_path)
        assert "no_such_module is not here" in result["skipped"]
        assert result["ok"] is ok
