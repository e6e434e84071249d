"""A model of the user's on both pictures: TorchScript, ONNX, and what is neither."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from inrwsi.benchmarks import fidelity_task
from inrwsi.errors import BackendUnavailable, UsageError


class Means(torch.nn.Module):
    """(n, 3, h, w) -> (n, 3): the mean of each channel, so the class is the strongest colour."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3))


class Pixels(torch.nn.Module):
    """(n, 3, h, w) -> a pair, its first the pixels: a segmenter by strongest colour."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        return x, 1


class Single(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(1, 2, 3))[:, None]


class Odd(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum()


class Infinite(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3)) / 0


def saved(module: torch.nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(path))
    return path


@pytest.fixture
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """(600, 1030, 3) uint8, a red patch, a green one, and the rest blue; decoded, the green patch turned blue."""
    original = np.full((600, 1030, 3), (10, 20, 200), np.uint8)
    original[:256, :256] = (180, 20, 30)
    original[256:512, 256:512] = (40, 150, 60)
    decoded = original.copy()
    decoded[256:512, 256:512] = (40, 60, 150)
    return original, decoded


def expected_correlation(original: np.ndarray, decoded: np.ndarray) -> float:
    def means(rgb: np.ndarray) -> np.ndarray:
        return rgb[:512, :1024].reshape(2, 256, 4, 256, 3).mean(axis=(1, 3)).ravel() / 255

    return float(np.corrcoef(means(original), means(decoded))[0, 1])


def test_torchscript_classifier(tmp_path: Path, pictures: tuple[np.ndarray, np.ndarray]) -> None:
    task = fidelity_task.load_task(saved(Means(), tmp_path / "means.pt"))
    found = task.agreement(*pictures)
    assert (found.same, found.choices, found.values) == (7, 8, 24)
    assert found.metrics()["task_agreement"] == 7 / 8
    assert found.metrics()["task_correlation"] == pytest.approx(expected_correlation(*pictures), abs=1e-6)
    alike = task.agreement(pictures[0], pictures[0])
    assert alike.metrics() == pytest.approx({"task_agreement": 1, "task_correlation": 1}, abs=1e-9)
    both = found + alike
    assert (both.same, both.choices, both.values) == (15, 16, 48)
    assert both.product == found.product + alike.product


def test_torchscript_segmenter_counts_its_pixels(tmp_path: Path, pictures: tuple[np.ndarray, np.ndarray]) -> None:
    task = fidelity_task.load_task(saved(Pixels(), tmp_path / "pixels.ts"))
    original, decoded = pictures[0], pictures[0].copy()
    decoded[:16, :256] = (10, 20, 200)
    found = task.agreement(original, decoded)
    assert (found.same, found.choices) == (512 * 1024 - 16 * 256, 512 * 1024)


def test_a_single_channel_has_no_class(tmp_path: Path, pictures: tuple[np.ndarray, np.ndarray]) -> None:
    task = fidelity_task.load_task(saved(Single(), tmp_path / "single.pth"))
    assert set(task.agreement(*pictures).metrics()) == {"task_correlation"}
    flat = np.full((256, 512, 3), 90, np.uint8)
    assert task.agreement(flat, flat).metrics() == {}


@pytest.mark.parametrize(("module", "sentence"), [(Odd(), "it should be floats"), (Infinite(), "not finite")])
def test_odd_outputs_are_refused(
    module: torch.nn.Module, sentence: str, tmp_path: Path, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    task = fidelity_task.load_task(saved(module, tmp_path / "odd.pt"))
    with pytest.raises(UsageError, match=sentence):
        task.agreement(*pictures)


def test_what_is_no_model_is_refused(tmp_path: Path, pictures: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(UsageError, match="no such file"):
        fidelity_task.load_task(tmp_path / "none.pt")
    noise = tmp_path / "noise.pt"
    noise.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(UsageError, match=r"noise\.pt: is not a TorchScript model"):
        fidelity_task.load_task(noise)
    noise.rename(tmp_path / "noise.h5")
    with pytest.raises(UsageError, match=r"TorchScript \(\.pt, \.pth, \.ts\) or \.onnx"):
        fidelity_task.load_task(tmp_path / "noise.h5")
    task = fidelity_task.load_task(saved(Means(), tmp_path / "means.pt"))
    with pytest.raises(UsageError, match="needs 256x256 pixels; the picture has 1030x255"):
        task.agreement(pictures[0][:255], pictures[1][:255])


def test_pickled_weights_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(UsageError, match="is not a TorchScript model"):
        fidelity_task.load_task(path)


# --- ONNX ---


def test_onnx_without_its_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(BackendUnavailable, match=r"install inrwsi\[onnx\]"):
        fidelity_task.load_task(tmp_path / "model.onnx")


def test_onnx_shapes_are_kept_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    """A model of one patch of 128 pixels at a time, in a stand-in for onnxruntime."""
    seen: list[tuple[int, ...]] = []

    class Session:
        def __init__(self, path: str, providers: list[str]) -> None:
            assert providers == ["CPUExecutionProvider"]

        def get_inputs(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(name="pixels", shape=[1, 3, 128, 128])]

        def run(self, outputs: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            seen.append(feed["pixels"].shape)
            return [feed["pixels"].mean(axis=(2, 3))]

    runtime = ModuleType("onnxruntime")
    runtime.InferenceSession = Session  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    (tmp_path / "model.onnx").write_bytes(b"")
    found = fidelity_task.load_task(tmp_path / "model.onnx").agreement(*pictures)
    assert set(seen) == {(1, 3, 128, 128)}
    assert (found.same, found.choices) == (4 * 8 - 4, 4 * 8)


def field(number: int, value: bytes | int | str) -> bytes:
    """One field of a protocol buffer; numbers and lengths below 2^14."""

    def varint(v: int) -> bytes:
        return bytes([v]) if v < 128 else bytes([v & 127 | 128, v >> 7])

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def onnx_pixels() -> bytes:
    """An ONNX model of one node: a 16x16 average of (n, 3, h, w)."""

    def described(name: str) -> bytes:
        dimensions = b"".join(field(1, field(2, n)) for n in ("n", "c", "h", "w"))
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, dimensions)))

    def integers(name: str) -> bytes:
        return field(5, field(1, name) + field(8, 16) + field(8, 16) + field(20, 7))

    node = field(1, "x") + field(2, "y") + field(4, "AveragePool") + integers("kernel_shape") + integers("strides")
    graph = field(1, node) + field(2, "g") + field(11, described("x")) + field(12, described("y"))
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))


def test_onnx_by_onnxruntime(tmp_path: Path, pictures: tuple[np.ndarray, np.ndarray]) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    path = tmp_path / "pool.onnx"
    path.write_bytes(onnx_pixels())
    found = fidelity_task.load_task(path).agreement(*pictures)
    assert (found.same, found.choices) == (7 * 256, 8 * 256)
    path.write_bytes(onnx_pixels()[:40])
    with pytest.raises(UsageError, match=r"pool\.onnx: is not an ONNX model that runs here"):
        fidelity_task.load_task(path)
