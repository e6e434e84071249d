"""`inrwsi sample` writes a slide."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import run, told


def test_sample_is_a_slide(tmp_path: Path) -> None:
    out = tmp_path / "sample.tiff"
    assert run("sample", "-o", out, "--size", "300x200", "--seed", 3, "--mpp", 0.25, "-q").output == ""
    from inrwsi.formats.source import open_source

    with open_source(out) as source:
        assert (source.width, source.height) == (300, 200)
        assert source.mpp_um == pytest.approx((0.25, 0.25), rel=1e-4)
    told(run("sample", "-o", out), 2, "is there already")
