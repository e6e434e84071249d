"""`zarr.open("cinr::slide.cinr")`: a slide as a file system of fsspec's, as `zip::` shows an archive."""

from __future__ import annotations

import io
from typing import Any

import fsspec
from fsspec import AbstractFileSystem

from inrwsi.bridges.ngff import NgffKeys
from inrwsi.errors import UsageError


class CinrFileSystem(AbstractFileSystem):
    """The keys of the slide's OME-Zarr 0.4 image as files, to read. Thread safe.

    Args:
        fo: path of the slide, or where it is in the file system of `target_protocol`.
        target_protocol, target_options: the file system that the slide is in, as in `cinr::s3://bucket/slide.cinr`.
        options: those of `CinrSlide`, all but `levels`, and of fsspec.

    Raises:
        CorruptFile, UnsupportedVersion, UsageError: as `CinrSlide`.
    """

    protocol = "cinr"
    root_marker = ""
    cachable = False  # fsspec would keep the slide open, and give it again after its file has changed

    def __init__(
        self,
        fo: str = "",
        target_protocol: str | None = None,
        target_options: dict[str, Any] | None = None,
        *,
        mpp_um: Any = None,
        device: str = "auto",
        cache_bytes: int = 256 << 20,
        **options: Any,
    ) -> None:
        super().__init__(fo=fo, **options)
        if not fo:
            raise UsageError("cinr:: names no slide; write cinr::slide.cinr, or cinr::https://host/slide.cinr")
        self.fo = fo
        file = _target(fo, target_protocol, target_options or {})
        self._keys = NgffKeys.open(file, mpp_um=mpp_um, device=device, cache_bytes=cache_bytes)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(path).strip("/")

    def close(self) -> None:
        """Close the slide."""
        self._keys.close()

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Name, size in bytes and type of a key, or of what leads to one; nothing is decoded."""
        path = self._strip_protocol(path)
        size_bytes = self._keys.size_bytes(path)
        if size_bytes is not None:
            return {"name": path, "size": size_bytes, "type": "file"}
        if not self._keys.list_dir(path):
            raise FileNotFoundError(path)
        return {"name": path, "size": 0, "type": "directory"}

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        found = self.info(path)
        path = found["name"]
        names = [f"{path}/{name}".lstrip("/") for name in self._keys.list_dir(path)]
        files = [self.info(name) for name in names] if found["type"] == "directory" else [found]
        return files if detail else [file["name"] for file in files]

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        value = self._keys.get(self._strip_protocol(path))
        if value is None:
            raise FileNotFoundError(path)
        return value[start:end]

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BytesIO:
        if mode != "rb":
            raise UsageError(f"{path}: is opened in mode {mode!r}, and a slide can only be read; use 'rb'")
        return io.BytesIO(self.cat_file(path))


def _target(path: str, protocol: str | None, options: dict[str, Any]) -> Any:
    """What to open the slide by."""
    if protocol in (None, "file", "local"):
        return path
    files = fsspec.filesystem(protocol, **options)
    # By its address, where that is enough, it can be opened again after a fork.
    return files.open(path, "rb", cache_type="none") if options else files.unstrip_protocol(path)
