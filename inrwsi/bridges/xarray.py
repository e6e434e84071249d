"""`xarray.open_dataset("slide.cinr", engine="inrwsi")`: an octave of a slide as a dataset; all, as a tree."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from inrwsi.bridges import missing
from inrwsi.bridges.levels import LevelArray, open_levels
from inrwsi.errors import UsageError

try:
    import xarray
    from xarray.backends import BackendArray, BackendEntrypoint
    from xarray.core import indexing
except ImportError:
    raise missing("xarray", "xarray") from None

VARIABLE = "image"
COLOURS = ["R", "G", "B"]


class CinrBackend(BackendEntrypoint):
    """Slides as datasets of one variable, `image`: dimensions y, x and c, uint8, decoded where it is read.

    `y` and `x` are the centres of the pixels, in micrometres from the slide's top left corner, or in pixels of level 0
    where its scale is unknown (`units` says which); `c` is R, G, B. With `chunks={}` the image is a dask array.
    """

    description = "Whole-slide images of the inrwsi codec (.cinr)"
    supports_groups = True
    open_dataset_parameters: ClassVar[tuple[str, ...]] = (
        *("filename_or_obj", "drop_variables", "level", "mpp_um", "device", "cache_bytes"),
    )

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """By the name alone: xarray asks this of every file that it opens."""
        if not isinstance(filename_or_obj, (str, os.PathLike)):
            return False
        return os.path.splitext(os.fspath(filename_or_obj))[1].lower() == ".cinr"

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        level: int = 0,
        mpp_um: Any = None,
        device: str = "auto",
        cache_bytes: int = 256 << 20,
    ) -> xarray.Dataset:
        """One octave of a slide.

        Args:
            filename_or_obj: path, URL or file object.
            level: 0 for the slide's own pixels, k for 1/2^k of them; -1 is the coarsest.
            mpp_um, device, cache_bytes: as for `CinrSlide`.

        Raises:
            CorruptFile, UnsupportedVersion, UsageError: as `CinrSlide`; or there is no such level.
        """
        levels = open_levels(filename_or_obj, mpp_um=mpp_um, device=device, cache_bytes=cache_bytes)
        slide = levels[0].slide
        if not isinstance(level, (int, np.integer)) or not -len(levels) <= level < len(levels):
            slide.close()
            raise UsageError(f"{filename_or_obj}: level is {level!r}; it should be from 0 to {len(levels) - 1}")
        found = _dataset(levels[level], drop_variables)
        found.set_close(slide.close)
        return found

    def open_groups_as_dict(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        mpp_um: Any = None,
        device: str = "auto",
        cache_bytes: int = 256 << 20,
    ) -> dict[str, xarray.Dataset]:
        """Every octave: `/0`, `/1`, ..., all of one open file, which is closed with `/`."""
        levels = open_levels(filename_or_obj, mpp_um=mpp_um, device=device, cache_bytes=cache_bytes)
        root = xarray.Dataset(attrs={"level_count": len(levels)})
        root.set_close(levels[0].slide.close)
        return {"/": root} | {f"/{level.number}": _dataset(level, drop_variables) for level in levels}

    def open_datatree(self, filename_or_obj: Any, **settings: Any) -> xarray.DataTree:
        """A tree of the groups of `open_groups_as_dict`, of which the arguments are."""
        groups = self.open_groups_as_dict(filename_or_obj, **settings)
        tree = xarray.DataTree.from_dict(groups)
        tree.set_close(groups["/"]._close)
        return tree


class _LazyImage(BackendArray):
    """A level as xarray's lazy arrays want it."""

    def __init__(self, level: LevelArray) -> None:
        self.level, self.shape, self.dtype = level, level.shape, level.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self.level.__getitem__
        )


def _dataset(level: LevelArray, drop_variables: str | Iterable[str] | None) -> xarray.Dataset:
    image = xarray.Variable(("y", "x", "c"), indexing.LazilyIndexedArray(_LazyImage(level)))
    image.encoding["preferred_chunks"] = {"y": level.piece_px, "x": level.piece_px, "c": 3}
    slide = level.slide
    known = {"mpp_um": slide.mpp_um, "objective_power": slide.objective_power}
    attributes: dict[str, Any] = {"level": level.number, "downsample": level.downsample}
    attributes |= {name: value for name, value in known.items() if value is not None}
    coordinates = {
        name: (name, (np.arange(level.shape[axis]) + 0.5) * level.pixel_size[axis], {"units": level.unit})
        for axis, name in enumerate(("y", "x"))
    }
    dataset = xarray.Dataset({VARIABLE: image}, {**coordinates, "c": COLOURS}, attributes)
    dropped = [drop_variables] if isinstance(drop_variables, str) else list(drop_variables or ())
    return dataset.drop_vars(dropped, errors="ignore")
