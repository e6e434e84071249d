"""Line charts as SVG text: one function, the same bytes for the same numbers, no drawing library and no script.

Colours and type are CSS classes. `STYLE` defines them for light and dark, so that a chart reads in a page and alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 400  # px of the view box; a page scales it
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 34, 44  # px around the plot, the legend not counted
LEGEND_PX = 148
NAME_PX = 17  # from one name to the next
DOT_PX = 3.4
COLOURS = 12

# Hues that share a marker (every fourth) are far apart; the second of a pair is for a dark page. Class c0 is kept for
# what a page is about.
_HUES = (
    ("#c2255c", "#ff6b9d"),
    ("#1c6fb8", "#6cb6ff"),
    ("#0b8a6a", "#4fd1ac"),
    ("#b36200", "#ffb454"),
    ("#6741d9", "#b197fc"),
    ("#5c7a00", "#b5d64a"),
    ("#a61e9a", "#e599f7"),
    ("#495057", "#adb5bd"),
    ("#8a5a44", "#d9a58b"),
    ("#0c8599", "#3bc9db"),
    ("#c92a2a", "#ff8787"),
    ("#364fc7", "#91a7ff"),
)
_LIGHT = "".join(f".c{i}{{--c:{light}}}" for i, (light, _) in enumerate(_HUES))
_DARK = "".join(f".c{i}{{--c:{dark}}}" for i, (_, dark) in enumerate(_HUES))
STYLE = (
    ".chart{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;--ink:#1b1f24;--soft:#59636e;"
    "--grid:#e4e7eb;--paper:#fff}"
    ".chart .frame{fill:var(--paper)}.chart text{fill:var(--soft)}.chart .name{fill:var(--ink);font-weight:600;"
    "font-size:13px}.chart .key{fill:var(--ink)}.chart .grid{stroke:var(--grid);fill:none}"
    ".chart .line{stroke:var(--c);fill:none;stroke-width:1.6;stroke-linejoin:round}.chart .mark{fill:var(--c);"
    "stroke:var(--paper);stroke-width:1}.chart .main .line{stroke-width:3}.chart .main .key{font-weight:600}"
    ".chart .lead{stroke:var(--c);fill:none;stroke-width:1;stroke-dasharray:1 2}"
    ".chart .open{fill:var(--paper);stroke:var(--c);stroke-width:1.6}"
    f"{_LIGHT}@media(prefers-color-scheme:dark){{.chart{{--ink:#e6edf3;--soft:#9aa4af;--grid:#2b323a;--paper:#14181d}}"
    f"{_DARK}}}"
    "@media print{.chart{--ink:#1b1f24;--soft:#59636e;--grid:#e4e7eb;--paper:#fff}" + _LIGHT + "}"
)


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        name: in the legend.
        colour: number of a CSS class, 0 to 11.
        points: (x, y, what is shown on hovering), in any order; drawn by rising x. A y that is None has no error to
            show (lossless) and is drawn at the upper edge, or the lower where less is better.
        main: drawn thicker and on top.
    """

    name: str
    colour: int
    points: tuple[tuple[float, float | None, str], ...]
    main: bool = False


@dataclass(frozen=True)
class Axis:
    """What an axis says. `log` is base 2; `low`, `high` fix an end that otherwise follows the numbers."""

    label: str
    log: bool = False
    low: float | None = None
    high: float | None = None
    less_is_better: bool = False


@dataclass(frozen=True)
class _Scale:
    """Numbers to pixels along one axis. Numbers outside are not drawn."""

    low: float
    high: float
    start_px: float
    end_px: float
    log: bool
    ticks: tuple[float, ...]

    def px(self, value: float) -> float:
        low, high, at = (math.log2(v) if self.log else v for v in (self.low, self.high, value))
        return self.start_px + (at - low) / (high - low) * (self.end_px - self.start_px)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


def chart(title: str, x: Axis, y: Axis, series: Sequence[Series], *, alone: bool = False, beside: bool = False) -> str:
    """An `<svg>` of the curves. Without any number to draw, a chart that says so.

    Args:
        series: drawn in this order, `main` ones last; legend in this order.
        alone: a file by itself: with its namespace, its own style and a ground.
        beside: names in the order of the curves' right ends, each led to its own, instead of in the order of `series`.
    """
    xs = [p[0] for s in series for p in s.points]
    ys = [p[1] for s in series for p in s.points if p[1] is not None]
    space = 'xmlns="http://www.w3.org/2000/svg" ' if alone else ""
    parts = [f'<svg {space}class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    if alone:
        parts.append(f"<style>{STYLE}</style>")
    parts.append(f'<rect class="frame" width="{WIDTH}" height="{HEIGHT}" rx="6"/>')
    parts.append(f'<text class="name" x="{LEFT}" y="20">{escape(title)}</text>')
    if not xs or not ys:
        parts.append(f'<text x="{LEFT}" y="{HEIGHT // 2}">nothing was measured for this</text></svg>')
        return "".join(parts)
    sx = _scale(x, xs, LEFT, WIDTH - RIGHT - LEGEND_PX)
    sy = _scale(y, ys, HEIGHT - BOTTOM, TOP)
    parts += _axes(x, y, sx, sy)
    for one in sorted(series, key=lambda s: s.main):
        parts += _curve(one, sx, sy, y.less_is_better)
    if beside:
        parts += _names(series, sx, sy)
    else:
        for row, one in enumerate(series):
            parts += _key(one, row)
    parts.append("</svg>")
    return "".join(parts)


def _scale(axis: Axis, values: Sequence[float], start_px: float, end_px: float) -> _Scale:
    low = min(values) if axis.low is None else axis.low
    high = max(values) if axis.high is None else axis.high
    if axis.log:
        first, last = math.floor(math.log2(low)), max(math.ceil(math.log2(high)), math.floor(math.log2(low)) + 1)
        every = max(1, math.ceil((last - first) / 8))
        marks = tuple(2.0**k for k in range(first, last + 1, every))
        return _Scale(2.0**first, 2.0**last, start_px, end_px, True, marks)
    step = _round_step((high - low) / 6 or 1.0)
    first = math.floor(low / step + 1e-9) if axis.low is None else math.ceil(low / step - 1e-9)
    last = math.ceil(high / step - 1e-9) if axis.high is None else math.floor(high / step + 1e-9)
    last = max(last, first + 1)
    marks = tuple(step * k for k in range(first, last + 1))
    low = marks[0] if axis.low is None else min(low, marks[0])
    high = marks[-1] if axis.high is None else max(high, marks[-1])
    return _Scale(low, high, start_px, end_px, False, marks)


def _round_step(rough: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))


def _axes(x: Axis, y: Axis, sx: _Scale, sy: _Scale) -> list[str]:
    parts = []
    for tick in sx.ticks:
        at = _px(sx.px(tick))
        parts.append(f'<path class="grid" d="M{at} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{at}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:.3g}</text>')
    for tick in sy.ticks:
        at = _px(sy.px(tick))
        parts.append(f'<path class="grid" d="M{LEFT} {at}H{WIDTH - RIGHT - LEGEND_PX}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at}" dy=".35em" text-anchor="end">{tick:.6g}</text>')
    middle = (LEFT + WIDTH - RIGHT - LEGEND_PX) // 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x.label)}</text>')
    down = (TOP + HEIGHT - BOTTOM) // 2
    parts.append(f'<text transform="translate(14 {down}) rotate(-90)" text-anchor="middle">{escape(y.label)}</text>')
    return parts


def _curve(series: Series, sx: _Scale, sy: _Scale, less_is_better: bool) -> list[str]:
    edge = sy.low if less_is_better else sy.high
    inside = [p for p in sorted(series.points, key=lambda p: p[0]) if sx.holds(p[0])]
    seen = [(sx.px(x), sy.px(y), text) for x, y, text in inside if y is not None and sy.holds(y)]
    parts = [f'<g class="c{series.colour % COLOURS}{" main" if series.main else ""}">']
    if len(seen) > 1:
        path = "L".join(f"{_px(x)} {_px(y)}" for x, y, _ in seen)
        parts.append(f'<path class="line" d="M{path}"/>')
    parts += [_mark(series.colour, x, y, "mark", text) for x, y, text in seen]
    parts += [_mark(series.colour, sx.px(x), sy.px(edge), "open", text) for x, y, text in inside if y is None]
    parts.append("</g>")
    return parts


def _key(series: Series, row: int) -> list[str]:
    x, y = WIDTH - RIGHT - LEGEND_PX + 14, TOP + 8 + 19 * row
    return [
        f'<g class="c{series.colour % COLOURS}{" main" if series.main else ""}">',
        f'<path class="line" d="M{x} {y}h18"/>',
        _mark(series.colour, x + 9, y, "mark", ""),
        f'<text class="key" x="{x + 25}" y="{y}" dy=".35em">{escape(series.name)}</text></g>',
    ]


def _names(series: Sequence[Series], sx: _Scale, sy: _Scale) -> list[str]:
    """Names right of the plot, as high as the curves' right ends or as near as they fit, with a thin line to them."""
    ends = []
    for one in series:
        seen = [(x, y) for x, y, _ in one.points if y is not None and sx.holds(x) and sy.holds(y)]
        if seen:
            x, y = max(seen)
            ends.append((sy.px(y), sx.px(x), one))
    ends.sort(key=lambda end: end[:2])
    rows: list[float] = []
    for number, (y_px, _, _) in enumerate(ends):
        lowest = HEIGHT - BOTTOM - NAME_PX * (len(ends) - 1 - number)  # leaves room for those that follow
        rows.append(min(max(y_px, rows[-1] + NAME_PX if rows else TOP), max(lowest, TOP)))
    at, parts = WIDTH - RIGHT - LEGEND_PX + 30, []
    for row, (y_px, x_px, one) in zip(rows, ends, strict=True):
        parts += [
            f'<g class="c{one.colour % COLOURS}{" main" if one.main else ""}">',
            f'<path class="lead" d="M{_px(x_px + DOT_PX + 2)} {_px(y_px)}L{at - 20} {_px(row)}H{at - 4}"/>',
            f'<text class="key" x="{at}" y="{_px(row)}" dy=".35em">{escape(one.name)}</text></g>',
        ]
    return parts


def _mark(colour: int, x: float, y: float, kind: str, text: str) -> str:
    """A dot whose shape goes with the colour, for those who see no difference in hue."""
    r = DOT_PX
    shape = colour % 4
    if shape == 0:
        drawn = f'<circle class="{kind}" cx="{_px(x)}" cy="{_px(y)}" r="{r}"'
    elif shape == 1:
        drawn = f'<rect class="{kind}" x="{_px(x - r)}" y="{_px(y - r)}" width="{2 * r:g}" height="{2 * r:g}"'
    elif shape == 2:
        drawn = f'<path class="{kind}" d="M{_px(x)} {_px(y - 1.4 * r)}l{1.3 * r:g} {2.2 * r:g}h{-2.6 * r:g}z"'
    else:
        d = 1.35 * r
        drawn = f'<path class="{kind}" d="M{_px(x)} {_px(y - d)}l{d:g} {d:g}l{-d:g} {d:g}l{-d:g} {-d:g}z"'
    tag = drawn.split(" ", 1)[0][1:]
    return f"{drawn}><title>{escape(text)}</title></{tag}>" if text else f"{drawn}/>"


def _px(value: float) -> str:
    return f"{value:.1f}"
