"""Which facts about a slide may enter a `.cinr` file, and when a stated pixel size is believed.

Nothing is carried because it looked harmless: a key must be in `ALLOWED` and its whole value must be what that key
technically means. Free text (`openslide.comment`, `tiff.ImageDescription`), names of files and users, dates, serial and
barcode numbers, and hashes of the source file are therefore never carried, wherever a scanner puts them.

ICC profiles do not pass through here: they are kept as raw bytes, since changing a profile changes colours. A profile
holds text of its own (description, copyright, a creation date of the profile).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

MPP_RANGE_UM = (0.05, 50.0)
"""Micrometres a pixel outside this range come from screens, printers and defaults, not from microscopes."""

OBJECTIVE_RANGE = (0.1, 200.0)
MAX_SIDE_PX = 2**40
MAX_DOWNSAMPLE = 1e6

# The formats that OpenSlide names. A closed list, because any short word could be a person's name.
_VENDORS = (
    *("aperio", "argos", "dicom", "generic-tiff", "hamamatsu", "huron", "leica", "mirax", "philips", "sakura"),
    *("synthetic", "trestle", "ventana", "zeiss"),
)
# Scanner models by the pattern of their product line, for the same reason.
_MODELS = re.compile(
    r"C[0-9]{4,5}(-[0-9]{2})?"  # Hamamatsu NanoZoomer
    r"|(Aperio )?(AT|AT2|AT Turbo|CS|CS2|CS-O|LV1|GT ?450( DX)?|Versa( 8| 200)?)"
    r"|(Leica )?SCN400F?"
    r"|(Philips )?(UFS|SG[0-9]{2,3}) ?(Scanner)?"
    r"|(VENTANA )?(iScan (Coreo|HT)|DP ?[0-9]{3})"
    r"|(3DHISTECH )?Pannoramic( [A-Z0-9]{2,8}){0,2}"
    r"|(ZEISS )?Axio ?Scan\.?Z1"
)
_NUMBER = re.compile(r"[0-9]{1,6}(\.[0-9]{1,20})?(e-?[0-9]{1,2})?", re.IGNORECASE)
_INTEGER = re.compile(r"[0-9]{1,13}")
_COLOUR = re.compile(r"[0-9A-Fa-f]{6}")
# Numbers of levels, from 0 to 31: no slide has more, and a file's metadata stays short.
_LEVEL = re.compile(r"\[([0-9]|[12][0-9]|3[01])\]")


def number_within(text: str, lowest: float, highest: float) -> float | None:
    """The number that `text` wholly is, if it is a plain decimal in [lowest, highest]; else None."""
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if lowest <= value <= highest else None


def _is_mpp(text: str) -> bool:
    return number_within(text, *MPP_RANGE_UM) is not None


def _is_objective(text: str) -> bool:
    return number_within(text, *OBJECTIVE_RANGE) is not None


def _is_pixel_count(text: str) -> bool:
    return bool(_INTEGER.fullmatch(text)) and int(text) <= MAX_SIDE_PX


def _is_downsample(text: str) -> bool:
    return number_within(text, 1, MAX_DOWNSAMPLE) is not None


def _is_model(text: str) -> bool:
    return bool(_MODELS.fullmatch(text))


ALLOWED: Mapping[str, Callable[[str], bool]] = {
    "openslide.vendor": _VENDORS.__contains__,
    "openslide.mpp-x": _is_mpp,
    "openslide.mpp-y": _is_mpp,
    "openslide.objective-power": _is_objective,
    "openslide.background-color": lambda text: bool(_COLOUR.fullmatch(text)),
    "openslide.bounds-x": _is_pixel_count,
    "openslide.bounds-y": _is_pixel_count,
    "openslide.bounds-width": _is_pixel_count,
    "openslide.bounds-height": _is_pixel_count,
    "openslide.level[k].width": _is_pixel_count,
    "openslide.level[k].height": _is_pixel_count,
    "openslide.level[k].downsample": _is_downsample,
    "aperio.ScannerType": _is_model,
    "hamamatsu.Product": _is_model,
    "leica.device-model": _is_model,
    "philips.DICOM_MANUFACTURERS_MODEL_NAME": _is_model,
    "tiff.Model": _is_model,
}
"""Key -> whether a value of it may be carried. `[k]` stands for the number of a level, from 0 to 31."""


def allowed_metadata(properties: Mapping[str, str]) -> dict[str, str]:
    """The entries of a slide's `properties` that may be stored, under their own keys, sorted by key.

    An entry whose key is not in `ALLOWED`, or whose value is anything but the number, colour or known name that the
    key stands for, is left out without a word: that is the normal case, not an error.
    """
    return {key: properties[key] for key in sorted(properties) if _may_carry(key, properties[key])}


def _may_carry(key: str, value: str) -> bool:
    allowed = ALLOWED.get(_LEVEL.sub("[k]", key))
    return allowed is not None and "[k]" not in key and allowed(value)


def level_metadata(levels_wh: Sequence[tuple[int, int]]) -> dict[str, str]:
    """The entries of a pyramid that OpenSlide does not open, as it would state them: sizes in pixels of each level."""
    found: dict[str, str] = {}
    (l0_w, l0_h), *_ = levels_wh
    for number, (w, h) in enumerate(levels_wh):
        facts = {"width": w, "height": h, "downsample": f"{(l0_w / w + l0_h / h) / 2:.17g}"}
        found |= {f"openslide.level[{number}].{key}": str(value) for key, value in facts.items()}
    return allowed_metadata(found)


def plausible_mpp(x_um: float | None, y_um: float | None) -> tuple[float, float] | None:
    """(x, y) in micrometres a pixel if a microscope could have made both, else None."""
    if x_um is None or y_um is None or not (math.isfinite(x_um) and math.isfinite(y_um)):
        return None
    lowest, highest = MPP_RANGE_UM
    return (x_um, y_um) if lowest <= x_um <= highest and lowest <= y_um <= highest else None
