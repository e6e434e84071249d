"""From the networks as trained, in floats, to the integers that files are coded with (`fields.octaves_integer`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inrwsi.fields.octaves import GREY_SCALE, HIGH_PASS_SCALE, Octaves
from inrwsi.fields.octaves_integer import FACTOR_UNIT, NETS, PASSES, check_net, layer_shapes
from inrwsi.fields.octaves_model import FEATURES

# Of an activation: the share of a channel's values in a crop that may be cut off at 255, which of the crops' ranges
# then counts (0.5: the median, 1: the widest), and from which step on. The wider, the fewer are cut off, and the
# coarser is all else. Found by coordinate descent on the bits at equal PSNR of four images that the prior was trained
# on; the widest range of every activation costs 6 to 10 % more.
RANGES = {
    "trunk1": (1e-4, 0.98, 0.0),
    "trunk2": (1e-3, 0.75, 6.0),
    "squeeze": (1e-3, 0.9, 0.0),
    "synthesis1": (1e-3, 0.5, 6.0),
    "synthesis2": (1e-4, 1.0, 0.0),
    "given": (1e-4, 1.0, 0.0),
    "features": (1e-3, 0.75, 6.0),
    "hidden": (1e-3, 1.0, 6.0),
}
SEEN_UNIT = 0.25 / 4  # what networks see of a coefficient is a quarter of it, held in quarters
LOG_UNIT = 1 / 128
BIAS_MAX = 2**23
HIGH_PASS_UNIT = HIGH_PASS_SCALE / 8
MEAN_UNIT, LOG_SCALE_UNIT, PIXEL_UNIT = 1 / 16, 1 / 7, 1 / 256
_INPUT_OF = {  # activation to the module whose input it is
    "trunk1": "trunk2",
    "trunk2": "squeeze",
    "synthesis1": "synthesis2",
    "synthesis2": "pixels",
    **{f"heads.{n}.features": f"heads.{n}.hidden" for n in range(len(PASSES))},
    **{f"heads.{n}.hidden": f"heads.{n}.out" for n in range(len(PASSES))},
}

Units = dict[str, np.ndarray]


class Ranges:
    """Watches a model run, and then knows what one unit of every activation is worth: its range / 255.

    `step` is that of the crop which is about to run, in grey levels.
    """

    def __init__(self, model: Octaves) -> None:
        self.step = 0.0
        self._most: dict[str, list[tuple[float, np.ndarray]]] = {}
        self._hooks: list[Any] = []
        for number, net in enumerate(model.nets):
            for activation, module in _INPUT_OF.items():
                self._watch(net.get_submodule(module), f"{number}.{activation}", slice(None))
            self._watch(net.get_submodule("synthesis1"), f"{number}.squeeze", slice(0, model.config.squeeze))
            self._watch(net.get_submodule("trunk1"), f"{number}.given", slice(6, 6 + FEATURES))

    def _watch(self, module: nn.Module, name: str, channels: slice) -> None:
        outliers = RANGES[name.rsplit(".", 1)[1]][0]

        def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach()[:, channels].float().transpose(0, 1).flatten(1)
            most = x.kthvalue(max(1, round(x.shape[1] * (1 - outliers))), dim=1).values
            self._most.setdefault(name, []).append((self.step, most.cpu().numpy()))

        self._hooks.append(module.register_forward_pre_hook(look))

    def units(self) -> Units:
        """Name to (channels,) float32; stops watching."""
        for hook in self._hooks:
            hook.remove()
        units = {name: np.maximum(_range(name, seen), 1e-3) / 255 for name, seen in self._most.items()}
        # What a net hands up is one thing in the net that makes it and in the one that takes it.
        for number in range(NETS - 1):
            units[f"{number + 1}.up"] = units[f"{number}.given"]
        units[f"{NETS - 1}.up"] = np.maximum(units[f"{NETS - 1}.given"], units[f"{NETS - 2}.given"])
        units[f"{NETS - 1}.given"] = units[f"{NETS - 2}.given"] = units[f"{NETS - 1}.up"]
        units["0.up"] = np.ones(FEATURES, np.float32)  # nobody takes it
        return {name: np.ascontiguousarray(v, np.float32) for name, v in units.items()}


def _range(name: str, seen: list[tuple[float, np.ndarray]]) -> np.ndarray:
    """(channels,) of an activation, from what the crops showed, each with its step."""
    _, share, least_step = RANGES[name.rsplit(".", 1)[1]]
    counted = [most for step, most in seen if step >= least_step] or [most for _, most in seen]
    return np.quantile(np.stack(counted), share, axis=0)


def net_units(units: Units, number: int) -> Units:
    """Of one net: layer to the units of its inputs (`NAME<`) and outputs (`NAME>`)."""
    own = {name.split(".", 1)[1]: v for name, v in units.items() if name.startswith(f"{number}.")}
    grey = np.full(3, GREY_SCALE, np.float32)
    high = np.full(3, HIGH_PASS_UNIT, np.float32)
    logs = np.full(2, LOG_UNIT, np.float32)
    seen = np.full(9, SEEN_UNIT, np.float32)
    out: Units = {
        "trunk1<": np.concatenate((grey, high, own["given"], logs)),
        "trunk1>": own["trunk1"],
        "trunk2<": own["trunk1"],
        "trunk2>": own["trunk2"],
        "squeeze<": own["trunk2"],
        "squeeze>": own["squeeze"],
        "synthesis1<": np.concatenate((own["squeeze"], seen)),
        "synthesis1>": own["synthesis1"],
        "synthesis2<": own["synthesis1"],
        "synthesis2>": own["synthesis2"],
        "pixels<": own["synthesis2"],
        "pixels>": np.full(12, PIXEL_UNIT, np.float32),
        "up<": own["synthesis2"],
        "up>": np.repeat(own["up"], 4),
    }
    for n, (_, bands, _, near, _) in enumerate(PASSES):
        name = f"heads.{n}"
        out[f"{name}.features<"] = own["trunk2"]
        out[f"{name}.features>"] = own[f"{name}.features"]
        if near:
            out[f"{name}.neighbours<"] = seen[:near]
            out[f"{name}.neighbours>"] = own[f"{name}.features"]
        out[f"{name}.hidden<"] = own[f"{name}.features"]
        out[f"{name}.hidden>"] = own[f"{name}.hidden"]
        out[f"{name}.out<"] = own[f"{name}.hidden"]
        out[f"{name}.out>"] = np.repeat(np.array((MEAN_UNIT, LOG_SCALE_UNIT), np.float32), bands)
    return out


def real_net(net: nn.Module, analysis: nn.Module) -> dict[str, np.ndarray]:
    """Weights and biases of a net in floats, with the analysis' factors folded to where the decoder applies them."""
    state = {k: v.detach().float().cpu().numpy() for k, v in net.state_dict().items()}
    inverse = np.exp(-analysis.log_factor.detach().float().cpu().numpy())
    state["inverse_factor"] = inverse
    weight = state["synthesis1.weight"].copy()
    # Synthesis sees coefficients in steps, the passes in factors of them.
    weight[:, -9:] *= inverse[None, :, None, None]
    state["synthesis1.weight"] = weight
    return state


def shifts_of(real: dict[str, np.ndarray], units: Units) -> dict[str, np.ndarray]:
    """The shift of each output channel: the finest that keeps its weights within 127 and its sums within 24 bits."""
    shifts = {}
    for name in layer_shapes():
        if name.endswith("neighbours"):
            continue
        scaled = np.concatenate([s.reshape(len(s), -1) for s in _scaled(name, real, units)], 1)
        most = np.abs(scaled).max(1)
        bias = np.abs(real[f"{name}.bias"] / units[f"{name}>"])
        total = np.abs(scaled).sum(1) * 255 * 1.02 + bias
        room = np.minimum(127 / np.maximum(most, 1e-9), (2.0**24 - 2**17) / np.maximum(total, 1e-9))
        room = np.minimum(room, BIAS_MAX / np.maximum(bias, 1e-9))  # beyond it `integer_net` would cut the bias off
        finest = np.floor(np.log2(room))
        shifts[name] = np.clip(finest, 0, 20).astype(np.int8)
    return shifts


def held_shifts(net: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The shifts of a net's integer tensors, as `shifts_of` gives them."""
    return {name.removesuffix(".shift"): array for name, array in net.items() if name.endswith(".shift")}


def _scaled(name: str, real: dict[str, np.ndarray], units: Units) -> list[np.ndarray]:
    """The weights that make a layer's sums, in output units an input unit."""
    names = [name]
    near = name.replace("features", "neighbours")
    if near != name and f"{near}.weight" in real:
        names.append(near)
    out = []
    for each in names:
        weight = real[f"{each}.weight"].astype(np.float64)
        out.append(weight * units[f"{each}<"][None, :, None, None] / units[f"{each}>"][:, None, None, None])
    return out


def integer_net(real: dict[str, np.ndarray], units: Units, shifts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of `octaves_integer.net_tensors` for a net of those floats, units and shifts.

    Raises:
        ValueError: weights so large that sums could leave 24 bits.
    """
    out = {"inverse_factor": np.rint(np.clip(real["inverse_factor"], 0.02, 60) * FACTOR_UNIT).astype(np.int32)}
    for name in shifts:
        gain = np.exp2(shifts[name].astype(np.float64))
        names = [name] if len(_scaled(name, real, units)) == 1 else [name, name.replace("features", "neighbours")]
        for each, scaled in zip(names, _scaled(name, real, units), strict=True):
            out[f"{each}.weight"] = np.clip(np.rint(scaled * gain[:, None, None, None]), -127, 127).astype(np.int8)
        bias = real[f"{name}.bias"].astype(np.float64) / units[f"{name}>"] * gain
        out[f"{name}.bias"] = np.clip(np.rint(bias), -BIAS_MAX, BIAS_MAX).astype(np.int32)
        out[f"{name}.shift"] = shifts[name]
    check_net(out)
    return out


def calibrate(model: Octaves, batches: Iterable[tuple[Tensor, Tensor]], octaves: int) -> Units:
    """Units of every activation, from runs over (pictures, steps)."""
    ranges = Ranges(model)
    with torch.no_grad():
        for x, step in batches:
            ranges.step = float(step.max())
            model(x, step, octaves, hard=True)
    return ranges.units()
