"""The allow-list: what real slides may hand on, and what must never pass whatever key it stands under."""

from __future__ import annotations

from pathlib import Path

import openslide
import pytest

from inrwsi.formats.metadata import ALLOWED, allowed_metadata, level_metadata, plausible_mpp

SLIDES = Path(__file__).parents[2] / "shared" / "slides"


def properties(name: str) -> dict[str, str]:
    if not (SLIDES / name).exists():
        pytest.skip(f"the real slide {name} is not at hand")
    with openslide.OpenSlide(SLIDES / name) as slide:
        return dict(slide.properties)


def test_of_an_aperio_slide_the_technical_facts_alone_are_carried() -> None:
    found = properties("CMU-1-Small-Region.svs")
    assert {"aperio.Date", "aperio.Filename", "aperio.ImageID", "aperio.User", "tiff.ImageDescription"} <= set(found)
    assert allowed_metadata(found) == {
        "openslide.level[0].downsample": "1",
        "openslide.level[0].height": "2967",
        "openslide.level[0].width": "2220",
        "openslide.mpp-x": "0.499",
        "openslide.mpp-y": "0.499",
        "openslide.objective-power": "20",
        "openslide.vendor": "aperio",
    }


def test_of_a_hamamatsu_slide_the_model_is_carried_and_serial_numbers_are_not() -> None:
    found = properties("fluorescence-DAPI.ndpi")
    carried = allowed_metadata(found)
    assert carried["hamamatsu.Product"] == carried["tiff.Model"] == "C9600-12"
    assert len([key for key in carried if not key.startswith("openslide.level[")]) == 6
    for key in ("hamamatsu.NDP.S/N", "hamamatsu.Macro.S/N", "hamamatsu.Created", "tiff.DateTime"):
        assert found[key] not in carried.values()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("openslide.vendor", "Smith, John 1954"),
        ("openslide.vendor", "Smith"),
        ("openslide.vendor", "aperio\n"),
        ("openslide.vendor", " aperio"),
        ("openslide.mpp-x", "0.25 Smith"),
        ("openslide.mpp-x", "0.25\n"),
        ("openslide.mpp-x", "nan"),
        ("openslide.mpp-x", "1e400"),
        ("openslide.mpp-x", "-0.25"),
        ("openslide.mpp-x", "352.7"),
        ("openslide.mpp-y", "\u0660.25"),
        ("openslide.objective-power", "19540131"),
        ("openslide.background-color", "FFFFFF; Smith"),
        ("openslide.background-color", "Smith1"),
        ("openslide.bounds-x", "-1"),
        ("openslide.bounds-width", "9999999999999"),
        ("openslide.level[0].width", "9999999999999"),
        ("openslide.level[0].height", "12.5"),
        ("openslide.level[1].downsample", "4 Smith"),
        ("openslide.level[1].downsample", "0.5"),
        ("openslide.level[1].tile-width", "256"),
        ("openslide.level[32].width", "256"),
        ("openslide.level[19540131].width", "256"),
        ("openslide.level[01].width", "256"),
        ("openslide.level[k].width", "256"),
        ("openslide.level[1][1].width", "256"),
        ("tiff.Model", "Smith John"),
        ("tiff.Model", "C9600-12 S/N 950291"),
        ("aperio.ScannerType", "SS12345"),
        ("openslide.comment", "0.25"),
        ("openslide.quickhash-1", "6335ea0e6cc54c2cba64bb265d3c713a50cd84484924e3a9c109558c13521d5c"),
        ("tiff.ImageDescription", "Aperio"),
        ("tiff.Make", "Hamamatsu"),
        ("aperio.Filename", "CMU-1"),
        ("aperio.Date", "12/29/09"),
        ("aperio.ImageID", "1004486"),
        ("aperio.ScanScope ID", "CPAPERIOCS"),
        ("aperio.Barcode", "S12-3456"),
        ("dicom.PatientName", "Smith"),
        ("OPENSLIDE.VENDOR", "aperio"),
    ],
)
def test_anything_else_is_left_out(key: str, value: str) -> None:
    assert allowed_metadata({key: value}) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("openslide.vendor", "generic-tiff"),
        ("openslide.mpp-x", "0.2281750559028887"),
        ("openslide.mpp-y", "50"),
        ("openslide.objective-power", "40"),
        ("openslide.background-color", "F1f2F3"),
        ("openslide.bounds-x", "0"),
        ("openslide.bounds-height", "1099511627776"),
        ("openslide.level[0].downsample", "1"),
        ("openslide.level[31].downsample", "15.994004591779831"),
        ("openslide.level[1].width", "3622"),
        ("aperio.ScannerType", "GT450 DX"),
        ("leica.device-model", "Leica SCN400F"),
        ("tiff.Model", "C13210-01"),
    ],
)
def test_technical_values_pass_unchanged(key: str, value: str) -> None:
    assert allowed_metadata({key: value, "aperio.User": "x"}) == {key: value}


def test_no_key_of_free_text_is_in_the_list() -> None:
    assert not [
        key for key in ALLOWED if any(word in key.lower() for word in ("comment", "desc", "date", "name]", "user"))
    ]
    assert len(ALLOWED) == 17  # a new key needs a look at what values it can have


def test_pixel_sizes_of_screens_and_printers_are_not_believed() -> None:
    assert plausible_mpp(0.25, 0.26) == (0.25, 0.26)
    assert plausible_mpp(0.05, 50.0) == (0.05, 50.0)
    for x, y in [
        (25400 / 72, 25400 / 72),
        (0.25, 264.6),
        (0.0, 0.25),
        (0.049, 0.25),
        (None, 0.25),
        (0.25, float("nan")),
    ]:
        assert plausible_mpp(x, y) is None


def test_levels_are_stated_as_openslide_states_them() -> None:
    assert level_metadata([(14486, 16783), (3622, 4196)]) == {
        "openslide.level[0].downsample": "1",
        "openslide.level[0].height": "16783",
        "openslide.level[0].width": "14486",
        "openslide.level[1].downsample": "3.9996047483364823",
        "openslide.level[1].height": "4196",
        "openslide.level[1].width": "3622",
    }
    assert len(level_metadata([(2**k, 1) for k in range(40, -1, -1)])) <= 3 * 32
