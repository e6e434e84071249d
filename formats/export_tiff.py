"""A JPEG pyramid in a TIFF that OpenSlide, and QuPath through either of its readers, open with their scale and levels.

OpenSlide takes as levels the tiled pages of the main chain that are marked as reduced, and the scale from the
resolution tags. Bio-Formats takes a chain of pages for one large picture; its pyramids are the SubIFDs of a page, with
the scale and the objective power in OME-XML. The two do not exclude each other: here the pages of the levels stand in
the main chain, and the first page names them as its SubIFDs as well. OME-TIFF alone would be one level to OpenSlide.
What OpenSlide cannot be told in a TIFF of no vendor is the objective power; it could be had by posing as a scanner.
"""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tifffile

from inrwsi import __version__
from inrwsi.formats.export_base import TILE_PX, PyramidSpec, PyramidWriter, encode_jpeg
from inrwsi.geometry import grid_wh

_OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
# Classic TIFF addresses 4 GiB; page directories and profiles take their share of the rest.
_CLASSIC_BYTES = 2**32 - 2**26
_UM_A_CM = 10_000
_SOFTWARE = "inrwsi "  # and the version
_SOF0, _SOS, _APP0 = 0xC0, 0xDA, 0xE0  # markers of JPEG (ITU-T T.81, table B.1)


class TiffPyramid(PyramidWriter):
    """Tiles go into a spool as they come; from there they are written level by level, as a TIFF wants them."""

    suffixes: ClassVar[tuple[str, ...]] = (".tif", ".tiff")

    @classmethod
    def is_own(cls, target: Path) -> bool:
        try:
            with tifffile.TiffFile(target) as tiff:
                return str(tiff.pages.first.software).startswith(_SOFTWARE)
        except (OSError, ValueError, LookupError, struct.error):  # what tifffile raises for what is no TIFF, or damaged
            return False

    def __init__(self, out: Path, spec: PyramidSpec) -> None:
        super().__init__(out, spec)
        self._open = ExitStack()
        grids = [grid_wh(spec.level_wh(level), TILE_PX) for level in range(self.level_count)]
        # (rows, columns, 2): where a tile lies in the spool, and its bytes.
        self._extents = [np.zeros((rows, columns, 2), np.int64) for columns, rows in grids]
        self._spool_bytes = 0

    def _begin(self) -> None:
        self._spool = self._open.enter_context(open(self._partial / "tiles", "x+b"))  # noqa: SIM115

    def put(self, level: int, tile_ij: tuple[int, int], pixels: np.ndarray) -> None:
        missing = (TILE_PX - pixels.shape[0], TILE_PX - pixels.shape[1])
        # What lies beyond the level repeats its border, which costs little and leaves no ringing.
        whole = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
        payload = bare_jpeg(encode_jpeg(whole, self.spec))
        self._spool.write(payload)
        self._extents[level][tile_ij[1], tile_ij[0]] = (self._spool_bytes, len(payload))
        self._spool_bytes += len(payload)

    def _finish(self) -> None:
        path = self._partial / self.out.name
        size = self._spool_bytes + sum(pixels.nbytes for _, pixels in self.spec.associated)
        with tifffile.TiffWriter(path, bigtiff=size > _CLASSIC_BYTES) as tiff:
            for level in range(self.level_count):
                self._write_level(tiff, level)
            for name, pixels in self.spec.associated:
                # In one strip: OpenSlide takes tiled pages only for levels.
                strip = bare_jpeg(encode_jpeg(pixels, replace(self.spec, channels=3)))
                self._write_page(tiff, iter((strip,)), pixels.shape, rowsperstrip=len(pixels), description=name)
        if self.level_count > 1:
            _chain_subifds(path)

    def _write_level(self, tiff: tifffile.TiffWriter, level: int) -> None:
        spec = self.spec
        width, height = spec.level_wh(level)
        first: dict[str, Any] = {}
        if level == 0:
            # The pages of as many levels as follow become SubIFDs of this one.
            first = {"description": ome_xml(spec), "subifds": self.level_count - 1}
        if spec.mpp_um is not None:
            per_cm = [per_cm_ratio(mpp * 2**level) for mpp in spec.mpp_um]
            first |= {"resolution": per_cm, "resolutionunit": "CENTIMETER"}
        shape = (height, width, spec.channels)[: 3 if spec.channels == 3 else 2]
        self._write_page(
            tiff,
            self._tiles(level),
            shape,
            tile=(TILE_PX, TILE_PX),
            subfiletype=1 if level else 0,
            iccprofile=spec.icc,
            software=_SOFTWARE + __version__,
            **first,
        )

    def _write_page(
        self, tiff: tifffile.TiffWriter, segments: Iterator[bytes], shape: tuple[int, ...], **more: Any
    ) -> None:
        """A page of JPEG tiles or strips, of (h, w, 3) colour or (h, w) grey."""
        colour = len(shape) == 3
        settings = {
            "photometric": "rgb" if colour else "minisblack",  # rgb is stored as YCbCr, which readers turn back
            "subsampling": ((1, 1) if self.spec.full_chroma else (2, 2)) if colour else None,
            "software": False,
        }
        tiff.write(segments, shape=shape, dtype=np.uint8, compression="jpeg", metadata=None, **(settings | more))

    def _tiles(self, level: int) -> Iterator[bytes]:
        for offset, size in self._extents[level].reshape(-1, 2).tolist():
            self._spool.seek(offset)
            yield self._spool.read(size)

    def _abandon(self) -> None:
        self._open.close()


def per_cm_ratio(mpp_um: float) -> tuple[int, int]:
    """Pixels a centimetre as the nearest fraction of two numbers below 2^32, which is what a TIFF has room for."""
    per_cm = _UM_A_CM / mpp_um
    return Fraction(per_cm).limit_denominator(max(1, int(2**31 / max(per_cm, 1)))).as_integer_ratio()


def bare_jpeg(jpeg: bytes) -> bytes:
    """A baseline JPEG as libtiff writes it: no JFIF marker, components numbered from 0.

    A TIFF says by itself that a page is YCbCr. Bio-Formats does what the TIFF says, after a decoder that would conclude
    the same from the marker, or from components 1, 2 and 3: colours would be turned twice.
    """
    parts, at, marker = [jpeg[:2]], 2, 0
    while marker != _SOS:
        _, marker, length = struct.unpack_from(">BBH", jpeg, at)
        segment = bytearray(jpeg[at : at + 2 + length])
        if marker == _SOF0:
            for component in range(segment[9]):
                segment[10 + 3 * component] = component
        elif marker == _SOS:
            for component in range(segment[4]):
                segment[5 + 2 * component] = component
        if marker != _APP0:
            parts.append(bytes(segment))
        at += 2 + length
    return b"".join((*parts, jpeg[at:]))


def _chain_subifds(path: Path) -> None:
    """Put the SubIFDs of the first page into the main chain as well, after all of its own pages.

    At its end they change no page's number, whether or not a reader counts pages that are marked as reduced. The
    offset of the next page stands at the end of a page's directory, after the number of its tags and the tags.
    """
    with tifffile.TiffFile(path) as tiff:
        layout, first = tiff.tiff, tiff.pages.first
        chain = [*(page.offset for page in tiff.pages), *first.subifds]
    with open(path, "r+b") as file:
        for page, following in pairwise([*chain, 0]):
            file.seek(page)
            (tags,) = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))
            file.seek(page + layout.tagnosize + tags * layout.tagsize)
            file.write(struct.pack(layout.offsetformat, following))


def ome_xml(spec: PyramidSpec) -> str:
    """The description of the first page, in ASCII: scale, objective power, and the images, page n image n.

    The unit of a physical size that none is given for is the micrometre.
    """
    ElementTree.register_namespace("", _OME)
    root = ElementTree.Element(f"{{{_OME}}}OME", Creator=f"inrwsi {__version__}")
    if spec.objective_power is not None:
        instrument = _child(root, "Instrument", ID="Instrument:0")
        _child(instrument, "Objective", ID="Objective:0", NominalMagnification=f"{spec.objective_power:.17g}")
    size = {} if spec.mpp_um is None else dict(zip(("PhysicalSizeX", "PhysicalSizeY"), spec.mpp_um, strict=True))
    image = _child(root, "Image", ID="Image:0", Name="slide")
    if spec.objective_power is not None:
        _child(image, "InstrumentRef", ID="Instrument:0")
        _child(image, "ObjectiveSettings", ID="Objective:0")
    _pixels(image, 0, spec.l0_wh, spec.channels, {key: f"{value:.17g}" for key, value in size.items()})
    for number, (name, pixels) in enumerate(spec.associated, 1):
        image = _child(root, "Image", ID=f"Image:{number}", Name=name)
        _pixels(image, number, (pixels.shape[1], pixels.shape[0]), 3, {})
    return ElementTree.tostring(root, "us-ascii", xml_declaration=True).decode("ascii")


def _pixels(image: ElementTree.Element, number: int, wh: tuple[int, int], channels: int, size: dict[str, str]) -> None:
    sides = {"SizeX": wh[0], "SizeY": wh[1], "SizeC": channels, "SizeZ": 1, "SizeT": 1}
    pixels = _child(
        image,
        "Pixels",
        ID=f"Pixels:{number}",
        DimensionOrder="XYCZT",
        Type="uint8",
        Interleaved="true",
        **{key: str(side) for key, side in sides.items()},
        **size,
    )
    _child(pixels, "Channel", ID=f"Channel:{number}:0", SamplesPerPixel=str(channels))
    _child(pixels, "TiffData", IFD=str(number), PlaneCount="1")


def _child(parent: ElementTree.Element, tag: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, f"{{{_OME}}}{tag}", attributes)
