"""Progress: few lines where nobody looks, bars where somebody does."""

from __future__ import annotations

import re

import pytest

from inrwsi.cli.progress_view import PlainLines, _bars, duration
from inrwsi.progress import Progress


def test_plain_lines_are_few_and_end_a_stage() -> None:
    now = [100.0]
    lines: list[str] = []
    view = PlainLines(lines.append, lambda: now[0])
    for second in range(13):
        now[0] = 100.0 + second
        view.report(Progress("network", second * 2.5, 30, "Mpx", "31.2 dB"))
    view.report(Progress("network", 30, 30, "Mpx", "31.3 dB"))
    now[0] = 120.0
    view.report(Progress("tiles", 6, 10, "tiles"))  # resumed: the first six were done before
    now[0] = 126.0
    view.report(Progress("tiles", 9, 10, "tiles"))
    view.report(Progress("tiles", 10, 10, "tiles"))
    assert lines == [
        "network: 12.5 of 30 Mpx, 31.2 dB, 2.5 Mpx/s, 7.0 s left",
        "network: 25 of 30 Mpx, 31.2 dB, 2.5 Mpx/s, 2.0 s left",
        "network: 30 of 30 Mpx, 31.2 dB, 2.5 Mpx/s, 12 s",
        "tiles: 9 of 10 tiles, 0.5 tiles/s, 2.0 s left",
        "tiles: 10 of 10 tiles, 0.667 tiles/s, 6.0 s",
    ]


def test_bars_show_each_stage(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with _bars() as report:
        report(Progress("network", 1.5, 3, "Mpx", "31.2 dB"))
        report(Progress("network", 3, 3, "Mpx", "32.0 dB"))
        report(Progress("tiles", 2, 4, "Mpx"))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert "3/3 Mpx" in shown
    assert "32.0 dB" in shown
    assert "2/4 Mpx" in shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (41.6, "42 s"),
        (59.9, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (7620, "2 h 07 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
