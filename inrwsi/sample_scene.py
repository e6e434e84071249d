"""Where things are on the generated slide: the outline of the tissue, glands, vessels, fibre directions, regions.

Positions are micrometres from the slide's top left corner (`u` right, `v` down). A scene is a plain float64 vector so
that compiled code can take it; `plan_scene` makes it, and only the constants here know its layout.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from inrwsi.sample_noise import smoothstep, unit2, value_noise

# Layout of a scene vector.
WIDTH_UM, HEIGHT_UM, COLUMNS, ROWS, THRESHOLD_UM, PEN_CORNER, SEED = range(7)
SCENE_SIZE = 7

# Layout of the fields of one position.
TISSUE, GLAND, LUMEN, VESSEL, ACROSS, ALONG, FAT, LYMPH, EOSIN, HAEMATOXYLIN, MUCIN = range(11)
N_FIELDS = 11

STRUCTURE_PITCH_UM = 92.0
# Layout of one structure: kind (0 none, 1 gland, 2 vessel), centre, radius, lumen, unit axis, elongation.
KIND, CENTRE_U, CENTRE_V, RADIUS, LUMEN_RADIUS, AXIS_U, AXIS_V, STRETCH = range(8)
STRUCTURE_SIZE = 8

_FINEST_OUTLINE_UM = 9.0
_FAR_UM = 1e6


def plan_scene(size_wh: tuple[int, int], mpp_um: float, seed: int) -> np.ndarray:
    """The scene of a slide: one piece of tissue a square of the slide's shorter side, covering about half of the area.

    Args:
        size_wh: level-0 size in pixels.
        mpp_um: micrometres a pixel.
        seed: 0 to 2**32 - 1.

    Returns:
        float64 vector of SCENE_SIZE numbers.
    """
    width_um, height_um = size_wh[0] * mpp_um, size_wh[1] * mpp_um
    short_um = min(width_um, height_um)
    scene = np.zeros(SCENE_SIZE)
    scene[WIDTH_UM], scene[HEIGHT_UM], scene[SEED] = width_um, height_um, seed
    scene[COLUMNS], scene[ROWS] = max(1, round(width_um / short_um)), max(1, round(height_um / short_um))
    # The threshold leaves the wanted share of the slide as tissue that is not fat (which is as clear as glass), so no
    # seed gives an empty or a full slide; a quarter at least is bare, however much fat there is.
    heights, fat = _outline_samples(scene, 96)
    wanted = 0.51 + 0.08 * float(unit2(1, 1, seed))
    solid = np.sort(heights[fat < 0.5])
    scene[THRESHOLD_UM] = np.sort(heights)[heights.size // 4]
    surplus = solid.size - int(wanted * heights.size)
    if surplus > 0:
        scene[THRESHOLD_UM] = max(scene[THRESHOLD_UM], solid[surplus])
    corners = [(0.12, 0.1), (0.88, 0.1), (0.12, 0.9), (0.88, 0.9)]
    inset = [_corner_height(scene, x, y) for x, y in corners]
    scene[PEN_CORNER] = int(np.argmin(inset))
    return scene


def _corner_height(scene: np.ndarray, x: float, y: float) -> float:
    short_um = min(scene[WIDTH_UM], scene[HEIGHT_UM])
    u = x * short_um if x < 0.5 else scene[WIDTH_UM] - (1.0 - x) * short_um
    v = y * short_um if y < 0.5 else scene[HEIGHT_UM] - (1.0 - y) * short_um
    return float(outline_um(scene, u, v))


@numba.njit(cache=True, nogil=True)
def _outline_samples(scene: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Outline heights and fatness at count x count jittered places over the slide, both float64 (count**2,)."""
    seed = int(scene[SEED])
    heights, fat = np.empty(count * count), np.empty(count * count)
    for j in range(count):
        for i in range(count):
            u = (i + unit2(i, j, 5)) / count * scene[WIDTH_UM]
            v = (j + unit2(i, j, 6)) / count * scene[HEIGHT_UM]
            heights[j * count + i] = outline_um(scene, u, v)
            fat[j * count + i] = fatness(u, v, seed)
    return heights, fat


@numba.njit(cache=True, nogil=True)
def outline_um(scene: np.ndarray, u: float, v: float) -> float:
    """Roughly the depth into tissue in micrometres, negative on glass: domes plus noise of every scale down to 9 um."""
    seed = int(scene[SEED])
    columns, rows = int(scene[COLUMNS]), int(scene[ROWS])
    cell_w, cell_h = scene[WIDTH_UM] / columns, scene[HEIGHT_UM] / rows
    reach = 0.5 * min(cell_w, cell_h)
    ci, cj = int(u / cell_w), int(v / cell_h)
    dome = -4.0
    for j in range(max(cj - 1, 0), min(cj + 2, rows)):
        for i in range(max(ci - 1, 0), min(ci + 2, columns)):
            du = (u - (i + 0.42 + 0.16 * unit2(i, j, seed + 11)) * cell_w) / (0.5 * cell_w)
            dv = (v - (j + 0.42 + 0.16 * unit2(i, j, seed + 12)) * cell_h) / (0.5 * cell_h)
            shear = 0.8 * unit2(i, j, seed + 13) - 0.4
            du += shear * dv
            dome = max(dome, 1.0 - math.sqrt(du * du + dv * dv))
    height = dome * reach - scene[THRESHOLD_UM]
    wave, salt = reach * 0.9, seed + 20
    while wave > _FINEST_OUTLINE_UM:
        if abs(height) > 2.0 * wave + 80.0:  # what is left of the noise cannot bring the edge here
            break
        height += 0.62 * wave * (value_noise(u / wave, v / wave, salt) - 0.5)
        wave *= 0.5
        salt += 1
    return height


@numba.njit(cache=True, nogil=True)
def glandular(u: float, v: float, seed: int) -> float:
    """How much the region is mucosa rather than connective tissue, 0 to 1."""
    p, q = 0.8 * u - 0.6 * v, 0.8 * v + 0.6 * u
    return 0.65 * value_noise(p / 460.0, q / 460.0, seed + 40) + 0.35 * value_noise(u / 170.0, v / 170.0, seed + 41)


@numba.njit(cache=True, nogil=True)
def fatness(u: float, v: float, seed: int) -> float:
    """How much the region is adipose tissue, 0 to 1."""
    p, q = 0.8 * u + 0.6 * v, 0.8 * v - 0.6 * u
    p += 260.0 * value_noise(u / 210.0, v / 210.0, seed + 44)
    q += 260.0 * value_noise(u / 210.0, v / 210.0, seed + 45)
    coarse = 0.74 * value_noise(p / 560.0, q / 560.0, seed + 42) + 0.26 * value_noise(u / 90.0, v / 90.0, seed + 43)
    return smoothstep(0.720, 0.728, coarse)


@numba.njit(cache=True, nogil=True)
def structures(scene: np.ndarray, i0: int, j0: int, columns: int, rows: int) -> np.ndarray:
    """The glands and vessels of a block of lattice cells: (rows, columns, STRUCTURE_SIZE) float64."""
    seed = int(scene[SEED])
    table = np.zeros((rows, columns, STRUCTURE_SIZE))
    for row in range(rows):
        for column in range(columns):
            i, j = i0 + column, j0 + row
            cell = table[row, column]
            u = (i + 0.2 + 0.6 * unit2(i, j, seed + 50)) * STRUCTURE_PITCH_UM
            v = (j + 0.2 + 0.6 * unit2(i, j, seed + 51)) * STRUCTURE_PITCH_UM
            cell[CENTRE_U], cell[CENTRE_V] = u, v
            if fatness(u, v, seed) > 0.2:
                continue
            size = unit2(i, j, seed + 52)
            if glandular(u, v, seed) > 0.46:
                cell[KIND] = 1.0
                cell[RADIUS] = 32.0 + 18.0 * size
                cell[LUMEN_RADIUS] = cell[RADIUS] * (0.12 + 0.40 * unit2(i, j, seed + 53) * unit2(i, j, seed + 54))
            elif unit2(i, j, seed + 55) < 0.45:
                cell[KIND] = 2.0
                cell[RADIUS] = 6.0 + 22.0 * size * size
            a = 2.0 * unit2(i, j, seed + 56) - 1.0
            b = 2.0 * unit2(i, j, seed + 57) - 0.9995  # a hair off symmetric, so that it is never zero
            norm = math.sqrt(a * a + b * b)
            cell[AXIS_U], cell[AXIS_V] = a / norm, b / norm
            cell[STRETCH] = 1.0 + 0.7 * unit2(i, j, seed + 58) * (1.0 if cell[KIND] == 1.0 else 2.0)
    return table


@numba.njit(cache=True, nogil=True)
def _depths(u: float, v: float, table: np.ndarray, i0: int, j0: int) -> tuple[float, float, float]:
    """Depth in micrometres into the gland, its lumen and the vessel at a position: negative outside."""
    ci = math.floor(u / STRUCTURE_PITCH_UM) - i0
    cj = math.floor(v / STRUCTURE_PITCH_UM) - j0
    near, second, lumen, vessel = _FAR_UM, _FAR_UM, -_FAR_UM, -_FAR_UM
    for row in range(max(cj - 1, 0), min(cj + 2, table.shape[0])):
        for column in range(max(ci - 1, 0), min(ci + 2, table.shape[1])):
            cell = table[row, column]
            if cell[KIND] == 0.0:
                continue
            du, dv = u - cell[CENTRE_U], v - cell[CENTRE_V]
            long = (du * cell[AXIS_U] + dv * cell[AXIS_V]) / cell[STRETCH]
            wide = dv * cell[AXIS_U] - du * cell[AXIS_V]
            distance = math.sqrt(long * long + wide * wide)
            outside = distance - cell[RADIUS]
            if cell[KIND] == 2.0:
                vessel = max(vessel, -outside)
            elif outside < near:
                second = near
                near = outside
                lumen = cell[LUMEN_RADIUS] - distance
            elif outside < second:
                second = outside
    # Neighbouring glands share the ground between them, with a septum of at least 7 um.
    gland = min(-near, 0.5 * (second - near) - 3.5)
    return gland, min(lumen, gland - 9.0), min(vessel, -gland - 4.0)


@numba.njit(cache=True, nogil=True)
def fields_at(scene: np.ndarray, u: float, v: float, table: np.ndarray, i0: int, j0: int, out: np.ndarray) -> None:
    """Fills `out`, float64 (N_FIELDS,), for one position; depths and fibre coordinates are micrometres."""
    seed = int(scene[SEED])
    out[TISSUE] = outline_um(scene, u, v)
    coarse_u, coarse_v = value_noise(u / 48.0, v / 48.0, seed + 60), value_noise(u / 48.0, v / 48.0, seed + 61)
    fine_u, fine_v = value_noise(u / 15.0, v / 15.0, seed + 62), value_noise(u / 15.0, v / 15.0, seed + 63)
    wu = u + 22.0 * (coarse_u - 0.5) + 5.0 * (fine_u - 0.5)
    wv = v + 22.0 * (coarse_v - 0.5) + 5.0 * (fine_v - 0.5)
    out[GLAND], out[LUMEN], out[VESSEL] = _depths(wu, wv, table, i0, j0)
    # Fibres run along the contours of `across`: a plane bent by noise of three scales, as bundles of collagen wave.
    bend = 330.0 * value_noise(u / 260.0, v / 260.0, seed + 64) + 90.0 * value_noise(u / 80.0, v / 80.0, seed + 65)
    sway = 260.0 * value_noise(u / 300.0, v / 300.0, seed + 66)
    out[ACROSS] = 0.6 * u - 0.8 * v + bend + 9.0 * coarse_u
    out[ALONG] = 0.8 * u + 0.6 * v + sway
    out[FAT] = fatness(u, v, seed)
    p, q = 0.6 * u - 0.8 * v, 0.6 * v + 0.8 * u
    lymph = 0.62 * value_noise(p / 240.0, q / 240.0, seed + 67) + 0.38 * value_noise(u / 70.0, v / 70.0, seed + 68)
    out[LYMPH] = smoothstep(0.60, 0.80, lymph)
    out[EOSIN] = 0.75 + 0.5 * value_noise(u / 380.0, v / 380.0, seed + 69)
    out[HAEMATOXYLIN] = 0.85 + 0.3 * value_noise(u / 610.0, v / 610.0, seed + 70)
    out[MUCIN] = smoothstep(0.35, 0.55, value_noise(u / 310.0, v / 310.0, seed + 71))


@numba.njit(cache=True, nogil=True)
def pen_ink(scene: np.ndarray, u: float, v: float) -> float:
    """Ink of a felt pen's stroke across the emptiest corner, 0 to about 1.2."""
    seed = int(scene[SEED])
    short = min(scene[WIDTH_UM], scene[HEIGHT_UM])
    corner = int(scene[PEN_CORNER])
    a = (scene[WIDTH_UM] - u if corner & 1 else u) / short
    b = (scene[HEIGHT_UM] - v if corner & 2 else v) / short
    if a > 0.3 or b > 0.2:
        return 0.0
    half_um = min(0.016 * short, 500.0)
    centre = 0.075 + 1.1 * (a - 0.13) * (a - 0.13) + 0.012 * (value_noise(a * 14.0, 0.5, seed + 80) - 0.5)
    ragged = 0.25 * half_um * (value_noise(u / (0.3 * half_um), v / (0.3 * half_um), seed + 81) - 0.5)
    across_um = abs(b - centre) * short + ragged
    fray = 0.03 * value_noise(0.5, (b - centre) * short / (0.25 * half_um), seed + 84)
    ends = smoothstep(0.025, 0.030, a - fray) * (1.0 - smoothstep(0.225, 0.240, a + fray))
    past_um = short * max(0.045 - a, a - 0.21, 0.0)  # the felt's round ends
    body = 1.0 - smoothstep(0.88 * half_um, half_um, math.sqrt(across_um * across_um + past_um * past_um))
    if body * ends <= 0.0:
        return 0.0
    rim = 0.35 * smoothstep(0.55 * half_um, 0.85 * half_um, across_um)
    streak = value_noise(a * 9.0, (b - centre) * short / (0.11 * half_um), seed + 82)
    mottle = value_noise(u / 7.0, v / 7.0, seed + 83)
    return body * ends * (0.45 + rim + 0.35 * streak + 0.12 * mottle)
