"""The pixels of the generated slide: stains, nuclei and glass by Beer and Lambert's law, a lens and a sensor.

Windows are level-0 pixel rectangles. Every value is a function of position alone: smooth fields are sampled on a
lattice that is fixed to the slide, nuclei on another, and both are visited in the same order from any window.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from inrwsi.sample_noise import cellular, hash2, smoothstep, unit2, value_noise
from inrwsi.sample_scene import (
    ACROSS,
    ALONG,
    EOSIN,
    FAT,
    GLAND,
    HAEMATOXYLIN,
    HEIGHT_UM,
    LUMEN,
    LYMPH,
    MUCIN,
    N_FIELDS,
    SEED,
    STRUCTURE_PITCH_UM,
    TISSUE,
    VESSEL,
    WIDTH_UM,
    fields_at,
    pen_ink,
    structures,
)

BLUR_REACH_PX = 2
_FIELD_STEP_PX = 4
_NUCLEUS_PITCH_UM = 5.8
_NUCLEUS_REACH_UM = 9.0
_DUST_PITCH_UM = 210.0
_DUST_REACH_UM = 12.0
_OD_STEPS = 1024

# Optical densities (base 10, for red, green, blue) of a unit of stain. Haematoxylin and eosin are Ruifrok and
# Johnston's (Anal Quant Cytol Histol 23, 2001) as normalised in ImageJ's "H&E" set; red cells are eosin plus
# haemoglobin's blue absorption; the pen is a blue dye.
_HAEMATOXYLIN_OD = (0.644211, 0.716556, 0.266844)
_EOSIN_OD = (0.092789, 0.954111, 0.283111)
_RED_CELL_OD = (0.050, 0.640, 0.560)
_PEN_OD = (0.95, 0.62, 0.12)
_WHITE = (243.0, 242.0, 243.5)


def transmittance_table() -> np.ndarray:
    """10 ** -density at steps of 1/1024 from 0 to 4, rounded to 1e-9 so that every C library gives the same table."""
    return np.array([round(math.pow(10.0, -i / _OD_STEPS), 9) for i in range(4 * _OD_STEPS + 2)])


def lens_kernel(mpp_um: float) -> np.ndarray:
    """Five weights, summing to 1, of a spot about 0.7 um wide: the scan is band-limited as a lens leaves it."""
    weights = []
    for tap in range(-BLUR_REACH_PX, BLUR_REACH_PX + 1):
        falloff = 1.0 + (tap * mpp_um / 0.30) * (tap * mpp_um / 0.30)
        weights.append(1.0 / (falloff * falloff))
    return np.array(weights) / sum(weights)


@numba.njit(cache=True, nogil=True)
def _structure_block(scene: np.ndarray, u0: float, v0: float, u1: float, v1: float) -> tuple[np.ndarray, int, int]:
    margin_um = 30.0  # what fields_at may bend a position, and a nucleus's reach
    i0 = math.floor((u0 - margin_um) / STRUCTURE_PITCH_UM) - 1
    j0 = math.floor((v0 - margin_um) / STRUCTURE_PITCH_UM) - 1
    i1 = math.floor((u1 + margin_um) / STRUCTURE_PITCH_UM) + 2
    j1 = math.floor((v1 + margin_um) / STRUCTURE_PITCH_UM) + 2
    return structures(scene, i0, j0, i1 - i0, j1 - j0), i0, j0


@numba.njit(cache=True, nogil=True)
def _paint_nucleus(
    u: float,
    v: float,
    axes: np.ndarray,
    look: np.ndarray,
    salt: int,
    u0: float,
    v0: float,
    mpp: float,
    dark: np.ndarray,
) -> None:
    """Adds one nucleus to `dark` (2, h, w): coverage 0 to 1 and haematoxylin. `axes`: unit axis, semi-axes in um."""
    height, width = dark.shape[1:]
    reach = max(axes[2], axes[3]) + 1.2
    strength, vesicular = look[0], look[1]
    soft = 0.45 / min(axes[2], axes[3])
    spot_p, spot_q = 0.9 * unit2(salt, 1, 7) - 0.45, 0.9 * unit2(salt, 2, 7) - 0.45
    for y in range(max(int((v - reach - v0) / mpp), 0), min(int((v + reach - v0) / mpp) + 2, height)):
        for x in range(max(int((u - reach - u0) / mpp), 0), min(int((u + reach - u0) / mpp) + 2, width)):
            pu, pv = u0 + x * mpp, v0 + y * mpp
            du, dv = pu - u, pv - v
            p = (du * axes[0] + dv * axes[1]) / axes[2]
            q = (dv * axes[0] - du * axes[1]) / axes[3]
            rho = math.sqrt(p * p + q * q)
            if rho > 1.6:
                continue
            rho += 0.34 * (value_noise(pu / 2.7, pv / 2.7, salt) - 0.5)
            cover = 1.0 - smoothstep(1.0 - soft, 1.0 + soft, rho)
            if cover <= 0.0:
                continue
            chromatin = value_noise(pu / 1.15, pv / 1.15, salt + 1) - 0.5
            grain = value_noise(pu / 0.55, pv / 0.55, salt + 2) - 0.5
            rim = smoothstep(0.62, 0.92, rho)
            spot = ((p - spot_p) * axes[2]) ** 2 + ((q - spot_q) * axes[3]) ** 2
            value = 0.88 - 0.50 * vesicular + (0.45 + 0.35 * vesicular) * chromatin + 0.30 * grain
            value += (0.12 + 0.34 * vesicular) * rim + 0.5 * vesicular * (1.0 - smoothstep(0.3, 1.3, spot))
            value = cover * strength * max(value, 0.12)
            if value > dark[1, y, x]:
                dark[1, y, x] = value
            if cover > dark[0, y, x]:
                dark[0, y, x] = cover


@numba.njit(cache=True, nogil=True)
def _nucleus_kind(here: np.ndarray, draw: float, crowd: float) -> int:
    """What sits at a lattice site: 0 nothing, 1 epithelium, 2 endothelium, 3 lymphocyte, 4 spindle, 5 plump."""
    if here[TISSUE] < 3.0 or here[VESSEL] > 0.6:
        return 0
    if here[GLAND] > 0.8:
        depth = 7.6 - 1.6 * here[MUCIN]
        return 1 if here[GLAND] < depth else (3 if draw < 0.02 and here[LUMEN] < -4.0 else 0)
    if here[FAT] > 0.4:
        return 0
    if here[GLAND] > -2.2:
        return 4 if draw < 0.10 else 0
    if here[VESSEL] > -2.4:
        return 2 if draw < 0.55 else 0
    if draw < 0.66 * here[LYMPH]:
        return 3
    cells = 0.05 + 0.26 * crowd * crowd
    if draw > 1.0 - cells:
        return 4
    if draw > 1.0 - 1.45 * cells:
        return 3
    return 5 if draw > 1.0 - 1.8 * cells else 0


@numba.njit(cache=True, nogil=True)
def _nuclei(scene: np.ndarray, u0: float, v0: float, mpp: float, dark: np.ndarray) -> None:
    """Paints the nuclei of a window whose first pixel is at (u0, v0)."""
    seed = int(scene[SEED])
    u1, v1 = u0 + dark.shape[2] * mpp, v0 + dark.shape[1] * mpp
    table, i0, j0 = _structure_block(scene, u0, v0, u1, v1)
    here, right, below = np.empty(N_FIELDS), np.empty(N_FIELDS), np.empty(N_FIELDS)
    axes, look = np.empty(4), np.empty(2)
    pitch, reach = _NUCLEUS_PITCH_UM, _NUCLEUS_REACH_UM
    for j in range(math.floor((v0 - reach) / pitch), math.floor((v1 + reach) / pitch) + 1):
        for i in range(math.floor((u0 - reach) / pitch), math.floor((u1 + reach) / pitch) + 1):
            u = (i + 0.15 + 0.7 * unit2(i, j, seed + 100)) * pitch
            v = (j + 0.15 + 0.7 * unit2(i, j, seed + 101)) * pitch
            fields_at(scene, u, v, table, i0, j0, here)
            kind = _nucleus_kind(here, unit2(i, j, seed + 102), value_noise(u / 70.0, v / 70.0, seed + 103))
            if kind == 0:
                continue
            fields_at(scene, u + 1.0, v, table, i0, j0, right)
            fields_at(scene, u, v + 1.0, table, i0, j0, below)
            field = GLAND if kind == 1 else (VESSEL if kind == 2 else ACROSS)
            gu, gv = right[field] - here[field], below[field] - here[field]
            gu += 0.5 * (unit2(i, j, seed + 104) - 0.5)
            gv += 0.5 * (unit2(i, j, seed + 105) - 0.501)
            norm = max(math.sqrt(gu * gu + gv * gv), 1e-6)
            axes[0], axes[1] = gu / norm, gv / norm
            s, t = unit2(i, j, seed + 106), unit2(i, j, seed + 107)
            _nucleus_shape(kind, here[MUCIN], s, t, axes, look)
            _paint_nucleus(u, v, axes, look, int(hash2(i, j, seed + 108)), u0, v0, mpp, dark)


@numba.njit(cache=True, nogil=True)
def _nucleus_shape(kind: int, mucin: float, s: float, t: float, axes: np.ndarray, look: np.ndarray) -> None:
    """Semi-axes in um (along and across the gradient), darkness and how vesicular; s and t are uniform draws."""
    if kind == 1:
        axes[2], axes[3] = 4.1 + 0.9 * s - 1.5 * mucin, 2.8 + 0.6 * t + 0.7 * mucin
        look[0], look[1] = 0.66 + 0.26 * t, 0.15 + 0.6 * s * (1.0 - 0.7 * mucin)
    elif kind == 2:
        axes[2], axes[3] = 1.3 + 0.4 * s, 4.2 + 1.4 * t
        look[0], look[1] = 0.66 + 0.2 * s, 0.1
    elif kind == 3:
        axes[2], axes[3] = 2.8 + 0.5 * s, 2.7 + 0.5 * t
        look[0], look[1] = 0.80 + 0.26 * s, 0.05 + 0.3 * t
    elif kind == 4:
        axes[2], axes[3] = 1.4 + 0.9 * s * s, 4.2 + 2.6 * t
        look[0], look[1] = 0.60 + 0.34 * t, 0.5 * s * s
    else:
        axes[2], axes[3] = 3.2 + 0.9 * s, 4.0 + 1.2 * t
        look[0], look[1] = 0.56 + 0.24 * t, 0.6 + 0.4 * s


@numba.njit(cache=True, nogil=True)
def _dust(scene: np.ndarray, u0: float, v0: float, mpp: float, specks: np.ndarray) -> None:
    """Writes the density of dust on the glass to `specks` (h, w): a few ragged grains a square millimetre."""
    seed = int(scene[SEED])
    height, width = specks.shape
    pitch, reach = _DUST_PITCH_UM, _DUST_REACH_UM
    for j in range(math.floor((v0 - reach) / pitch), math.floor((v0 + height * mpp + reach) / pitch) + 1):
        for i in range(math.floor((u0 - reach) / pitch), math.floor((u0 + width * mpp + reach) / pitch) + 1):
            if unit2(i, j, seed + 120) > 0.4:
                continue
            u, v = (i + unit2(i, j, seed + 121)) * pitch, (j + unit2(i, j, seed + 122)) * pitch
            radius = 0.8 + 5.0 * unit2(i, j, seed + 123) ** 4
            density = 0.06 + 0.45 * unit2(i, j, seed + 124) ** 3
            for y in range(max(int((v - reach - v0) / mpp), 0), min(int((v + reach - v0) / mpp) + 2, height)):
                for x in range(max(int((u - reach - u0) / mpp), 0), min(int((u + reach - u0) / mpp) + 2, width)):
                    pu, pv = u0 + x * mpp, v0 + y * mpp
                    distance = math.sqrt((pu - u) * (pu - u) + (pv - v) * (pv - v)) / radius
                    if distance < 2.0:
                        distance += 1.1 * (value_noise(pu / (0.6 * radius), pv / (0.6 * radius), seed + 125) - 0.5)
                        specks[y, x] += density * (1.0 - smoothstep(0.5, 1.2, distance))


@numba.njit(cache=True, nogil=True)
def _field_lattice(scene: np.ndarray, x0: int, y0: int, width: int, height: int, mpp: float) -> np.ndarray:
    """The fields at every fourth pixel, (rows, columns, N_FIELDS), from the multiple of four at or before (x0, y0)."""
    step = _FIELD_STEP_PX
    ci, cj = x0 // step, y0 // step
    columns, rows = (x0 + width - 1) // step - ci + 2, (y0 + height - 1) // step - cj + 2
    step_um = step * mpp
    table, i0, j0 = _structure_block(scene, ci * step_um, cj * step_um, (ci + columns) * step_um, (cj + rows) * step_um)
    lattice = np.empty((rows, columns, N_FIELDS))
    for row in range(rows):
        for column in range(columns):
            fields_at(scene, (ci + column) * step_um, (cj + row) * step_um, table, i0, j0, lattice[row, column])
    return lattice


@numba.njit(cache=True, nogil=True)
def _gland_stain(f: np.ndarray, u: float, v: float, seed: int, grain: float, fine: float) -> tuple[float, float]:
    """Haematoxylin and eosin of a gland's cytoplasm, mucous or granular, and of what lies in its lumen."""
    curd = value_noise(u / 3.1, v / 3.1, seed + 149)
    bent_u, bent_v = u + 6.5 * value_noise(u / 6.0, v / 6.0, seed + 153), v + 5.0 * curd
    near, second, _ = cellular(bent_u / 7.4, bent_v / 7.4, seed + 148)
    edge = 1.0 - smoothstep(0.0, 0.34, second - near)
    basal = 1.0 - smoothstep(5.0, 12.0, f[GLAND])
    apical = smoothstep(-3.0, -0.5, f[LUMEN])
    mucin_h = 0.03 + 0.13 * edge * curd + 0.10 * curd * curd + 0.12 * basal + 0.05 * apical
    mucin_e = 0.02 + 0.10 * edge * curd + 0.06 * curd * grain + 0.10 * basal + 0.05 * apical
    plain_h = 0.06 + 0.02 * edge + 0.09 * grain * curd + 0.06 * basal
    plain_e = f[EOSIN] * (0.06 + 0.13 * grain * (0.4 + curd) + 0.09 * fine + 0.02 * edge + 0.05 * apical)
    lumen = smoothstep(-0.8, 0.8, f[LUMEN] + 2.4 * (curd - 0.5))
    debris = 0.10 * smoothstep(0.58, 0.8, value_noise(u / 11.0, v / 11.0, seed + 150)) * curd
    gland_h = (plain_h + (mucin_h - plain_h) * f[MUCIN]) * (1.0 - lumen) + 0.3 * debris * lumen
    gland_e = (plain_e + (mucin_e - plain_e) * f[MUCIN]) * (1.0 - lumen) + debris * lumen
    return gland_h, gland_e


@numba.njit(cache=True, nogil=True)
def _shade(f: np.ndarray, u: float, v: float, seed: int, cover: float, dark: float, stain: np.ndarray) -> None:
    """Writes haematoxylin, eosin and red-cell amounts of one position to `stain`, from its fields `f`."""
    stain[0] = stain[1] = stain[2] = 0.0
    grain = value_noise(u / 1.3, v / 1.3, seed + 140)
    tissue = smoothstep(0.0, 2.6, f[TISSUE] + 3.0 * grain)
    if tissue <= 0.0:
        return
    fine = value_noise(u / 0.62, v / 0.62, seed + 141)
    strand = value_noise(f[ACROSS] / 1.5, f[ALONG] / 19.0, seed + 142)
    bundle = value_noise(f[ACROSS] / 5.2, f[ALONG] / 46.0, seed + 143)
    loose = value_noise(u / 120.0, v / 120.0, seed + 144)
    ridge = 1.0 - abs(2.0 * strand - 1.0)
    h = 0.030 + 0.060 * grain * loose + 0.03 * strand
    e = f[EOSIN] * (0.028 + 0.105 * bundle + 0.105 * ridge * (0.4 + 0.6 * bundle) + 0.05 * fine)
    split = 0.62 * bundle + 0.22 * strand + 0.16 * grain
    gap = 1.0 - smoothstep(0.14 + 0.20 * loose, 0.24 + 0.24 * loose, split)
    keep = 1.0 - gap * (1.0 - 0.5 * f[LYMPH])
    h, e = h * keep + 0.07 * f[LYMPH], e * keep
    red = 0.0
    if f[FAT] > 0.0:
        bent_u = u + 26.0 * value_noise(u / 31.0, v / 31.0, seed + 151)
        bent_v = v + 26.0 * value_noise(u / 31.0, v / 31.0, seed + 152)
        near, second, _ = cellular(bent_u / 54.0, bent_v / 54.0, seed + 145)
        wall = 1.0 - smoothstep(0.9, 2.2, (second - near) * 27.0 + 1.2 * strand)
        e = e * (1.0 - f[FAT]) + f[FAT] * 0.17 * wall
        h = h * (1.0 - f[FAT]) + f[FAT] * 0.03 * wall
    if f[VESSEL] > -5.0:
        e += 0.10 * smoothstep(-5.0, -2.0, f[VESSEL]) * (0.5 + strand)
        inside = smoothstep(-0.3, 0.7, f[VESSEL])
        h, e = h * (1.0 - inside), e * (1.0 - inside)
        near, _, owner = cellular(u / 6.4, v / 6.4, seed + 146)
        if (owner >> 9) & 255 < 190:
            disc = 1.0 - smoothstep(0.48, 0.58, near + 0.10 * (grain - 0.5))
            red = inside * disc * (0.50 - 0.20 * (1.0 - smoothstep(0.05, 0.34, near)) + 0.14 * fine)
    if f[GLAND] > -3.5:
        slit = smoothstep(-3.4, -2.4, f[GLAND]) * (1.0 - smoothstep(-1.6, -0.8, f[GLAND]))
        slit *= smoothstep(0.50, 0.62, value_noise(u / 34.0, v / 34.0, seed + 147))
        h, e = h * (1.0 - slit), e * (1.0 - slit)
        inside = smoothstep(-0.5, 0.6, f[GLAND])
        gland_h, gland_e = _gland_stain(f, u, v, seed, grain, fine)
        h, e = h + (gland_h - h) * inside, e + (gland_e - e) * inside
        e += 0.08 * smoothstep(-1.3, -0.6, f[GLAND]) * (1.0 - inside)
    h = h * (1.0 - cover) + dark
    e = e * (1.0 - 0.35 * cover) + 0.03 * cover
    depth = tissue * (0.84 + 0.32 * fine) * (1.0 + 0.35 * (1.0 - smoothstep(0.0, 16.0, f[TISSUE])))
    stain[0], stain[1], stain[2] = h * depth * f[HAEMATOXYLIN], e * depth, red * tissue


@numba.njit(cache=True, nogil=True)
def _transmit(density: float, table: np.ndarray) -> float:
    at = min(density, 3.999) * _OD_STEPS
    i = int(at)
    return table[i] + (table[i + 1] - table[i]) * (at - i)


@numba.njit(cache=True, nogil=True)
def _light(scene: np.ndarray, x0: int, y0: int, width: int, height: int, mpp: float, table: np.ndarray) -> np.ndarray:
    """What reaches the lens, (height, width, 3) float64 in 8-bit levels, of a window of level-0 pixels."""
    seed = int(scene[SEED])
    dark, specks = np.zeros((2, height, width)), np.zeros((height, width))
    _nuclei(scene, x0 * mpp, y0 * mpp, mpp, dark)
    _dust(scene, x0 * mpp, y0 * mpp, mpp, specks)
    lattice = _field_lattice(scene, x0, y0, width, height, mpp)
    light, f, stain = np.empty((height, width, 3)), np.empty(N_FIELDS), np.empty(3)
    step = _FIELD_STEP_PX
    for y in range(height):
        row, b = (y0 + y) // step - y0 // step, ((y0 + y) % step) / step
        v = (y0 + y) * mpp
        for x in range(width):
            column, a = (x0 + x) // step - x0 // step, ((x0 + x) % step) / step
            u = (x0 + x) * mpp
            for k in range(N_FIELDS):
                top = lattice[row, column, k] * (1.0 - a) + lattice[row, column + 1, k] * a
                bottom = lattice[row + 1, column, k] * (1.0 - a) + lattice[row + 1, column + 1, k] * a
                f[k] = top * (1.0 - b) + bottom * b
                if k == TISSUE and f[TISSUE] < -3.0:
                    break  # bare glass: the other fields are not looked at
            _shade(f, u, v, seed, dark[0, y, x], dark[1, y, x], stain)
            ink = pen_ink(scene, u, v)
            cu, cv = 2.0 * u / scene[WIDTH_UM] - 1.0, 2.0 * v / scene[HEIGHT_UM] - 1.0
            lamp = 1.0 - 0.011 * (cu * cu + cv * cv)
            for c in range(3):
                density = stain[0] * _HAEMATOXYLIN_OD[c] + stain[1] * _EOSIN_OD[c] + stain[2] * _RED_CELL_OD[c]
                density += ink * _PEN_OD[c] + specks[y, x]
                light[y, x, c] = _WHITE[c] * lamp * _transmit(density, table)
    return light


@numba.njit(cache=True, nogil=True)
def paint(
    scene: np.ndarray, x0: int, y0: int, width: int, height: int, mpp: float, table: np.ndarray, lens: np.ndarray
) -> np.ndarray:
    """One window of the slide: (height, width, 3) uint8, first pixel at level-0 (x0, y0).

    Args:
        scene: from `plan_scene`.
        x0, y0, width, height: level-0 pixels.
        mpp: micrometres a pixel.
        table: from `transmittance_table`.
        lens: from `lens_kernel`.
    """
    seed = int(scene[SEED])
    reach = BLUR_REACH_PX
    light = _light(scene, x0 - reach, y0 - reach, width + 2 * reach, height + 2 * reach, mpp, table)
    rows = np.zeros((height, width + 2 * reach, 3))
    for tap in range(2 * reach + 1):
        rows += lens[tap] * light[tap : tap + height]
    out = np.empty((height, width, 3), np.uint8)
    for y in range(height):
        for x in range(width):
            shared = _gauss(hash2(x0 + x, y0 + y, seed + 160))
            for c in range(3):
                level = 0.0
                for tap in range(2 * reach + 1):
                    level += lens[tap] * rows[y, x + tap, c]
                # Shot noise grows with the root of the light; the line through 0.35 and 1 is near enough.
                noise = 0.75 * shared + 0.55 * _gauss(hash2(x0 + x, y0 + y, seed + 161 + c))
                level += noise * (0.35 + 0.65 * level / 255.0)
                out[y, x, c] = int(min(max(level + 0.5, 0.0), 255.0))
    return out


@numba.njit(cache=True, nogil=True)
def _gauss(h: int) -> float:
    """Nearly normal, mean 0, variance 1: the sum of the four bytes of a hash."""
    return ((h & 255) + ((h >> 8) & 255) + ((h >> 16) & 255) + ((h >> 24) & 255) - 510.0) / 147.8
