"""The slides that a server has: found once by name, opened when they are asked for, a few held open at a time."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import openslide
from PIL import Image

from inrwsi.errors import CorruptFile, InrwsiError, UsageError
from inrwsi.formats.container import Container
from inrwsi.options import check_model
from inrwsi.serve.options import ServeOptions

if TYPE_CHECKING:
    from inrwsi.serve.slides import OpenCinr, OpenSource

SUFFIX = ".cinr"
NO_SLIDE = (OSError, openslide.OpenSlideError, Image.DecompressionBombError)
T = TypeVar("T", "OpenCinr", "OpenSource")


class UnknownSlide(UsageError):
    """There is no slide of this id, or no longer."""


@dataclass(frozen=True)
class Facts:
    """A slide as it is listed. Sizes in level-0 pixels; `bpp` are bits of the file a level-0 pixel."""

    id: str
    name: str
    width: int
    height: int
    mpp_um: tuple[float, float] | None
    objective_power: float | None
    file_bytes: int
    bpp: float
    source: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Entry:
    """A slide's facts and where it is.

    Attributes:
        identity: of the file's content, as far as the file system tells: size and time of change.
        source_path, source_identity: the same of the slide that it was made from, where that is known.
    """

    facts: Facts
    path: Path
    identity: str
    source_path: Path | None = None
    source_identity: str = ""


class Library:
    """Slides by id, which is the file's name without `.cinr`: no request names a path. Thread safe.

    Args:
        paths, source: as of `inrwsi.serve.app`.

    Attributes:
        skipped: a sentence for each file of a folder that is not served, and each source that is not its slide's.

    Raises:
        as `inrwsi.serve.app`.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        source: str | os.PathLike[str] | None,
        options: ServeOptions,
    ) -> None:
        self.skipped: list[str] = []
        self._options = options
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        beside: dict[Path, dict[str, list[Path]]] = {}
        for path, named in _files([Path(p) for p in paths]):
            if path.parent not in beside:
                beside[path.parent] = _by_stem(path.parent)
            self._add(path, named, beside[path.parent].get(path.stem, []))
        if not self._entries:
            raise UsageError(f"{', '.join(map(str, paths)) or 'nothing'}: there is no .cinr file to serve")
        if source is not None:
            self._pair(Path(source))
        held = min(options.open_slides, len(self._entries))
        self._cinr: Held[OpenCinr] = Held(held)
        self._sources: Held[OpenSource] = Held(held)
        self._decoded_bytes = options.decoded_bytes // held

    def _add(self, path: Path, named: bool, beside: Sequence[Path]) -> None:
        if path.stem in self._entries:
            raise UsageError(
                f"{path}: another slide is called {path.stem} too, {self._entries[path.stem].path}; rename one of them"
            )
        try:
            entry = _read(path)
        except InrwsiError as error:
            if named:
                raise
            self.skipped.append(str(error))
            return
        self._entries[path.stem] = self._with_neighbour(entry, beside)

    def _with_neighbour(self, entry: Entry, beside: Sequence[Path]) -> Entry:
        """With the source that lies beside the file under its name, where there is one."""
        for path in beside:
            try:
                return _with_source(entry, path)
            except UsageError as error:
                self.skipped.append(str(error))
            except NO_SLIDE:
                continue
        return entry

    def _pair(self, source: Path) -> None:
        if len(self._entries) > 1:
            raise UsageError(
                f"{source}: a source is given for {len(self._entries)} slides; give it with one .cinr file, or put "
                "each source beside its slide, under the same name"
            )
        ((slide_id, entry),) = self._entries.items()
        try:
            self._entries[slide_id] = _with_source(entry, source)
        except NO_SLIDE as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else f"OpenSlide cannot open it ({error})"
            raise UsageError(f"{source}: {reason}; --source should be the slide that was encoded") from None
        self.skipped = [sentence for sentence in self.skipped if not sentence.startswith(f"{source}:")]

    def facts(self) -> list[Facts]:
        """All slides, by name."""
        with self._lock:
            return [self._entries[slide_id].facts for slide_id in sorted(self._entries)]

    def entry(self, slide_id: str) -> Entry:
        """A slide as its file is now; what was replaced is read again.

        Raises:
            UnknownSlide: there is none of this id.
            CorruptFile: it was replaced by a damaged file.
        """
        with self._lock:
            entry = self._entries.get(slide_id)
        if entry is None:
            raise UnknownSlide(f"there is no slide {slide_id!r}")
        try:
            same = _identity(entry.path) == entry.identity
            if entry.source_path is not None:
                same = same and _identity(entry.source_path) == entry.source_identity
            if not same:
                fresh = _read(entry.path)
                entry = fresh if entry.source_path is None else _with_source(fresh, entry.source_path)
                with self._lock:
                    self._entries[slide_id] = entry
        except CorruptFile:
            raise
        except (*NO_SLIDE, InrwsiError):  # whose sentences name a path, which is no business of who asks
            raise UnknownSlide(f"slide {slide_id!r} went away, or was replaced by what cannot be served") from None
        return entry

    def cinr(self, entry: Entry) -> OpenCinr:
        """The slide, open. Raises CorruptFile, UnsupportedVersion, UsageError."""
        from inrwsi.serve.slides import OpenCinr  # torch

        key = (entry.facts.id, entry.identity)
        return self._cinr.get(key, lambda: OpenCinr(entry.path, self._options.device, self._decoded_bytes))

    def source(self, entry: Entry) -> OpenSource:
        """Its source, open. Raises UnknownSlide where it has none; OpenSlideError, OSError."""
        from inrwsi.serve.slides import OpenSource

        path = entry.source_path
        if path is None:
            raise UnknownSlide(f"slide {entry.facts.id!r} has no source beside it")
        return self._sources.get((entry.facts.id, entry.source_identity), lambda: OpenSource(path))

    def forget_source(self, entry: Entry) -> None:
        """Open the source anew when it is next asked for: after an error OpenSlide's object fails for good."""
        self._sources.drop((entry.facts.id, entry.source_identity))


class Held(Generic[T]):
    """At most `most` open slides. Who still uses one that was let go of keeps it open until done. Thread safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: OrderedDict[tuple[str, str], T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, str], opens: Any) -> T:
        with self._lock:
            if key not in self._open:
                self._open[key] = opens()
                # An older content of the same slide goes first, then what was longest not asked for.
                for old in [k for k in self._open if k[0] == key[0] and k != key]:
                    del self._open[old]
                if len(self._open) > self._most:
                    self._open.popitem(last=False)
            self._open.move_to_end(key)
            return self._open[key]

    def drop(self, key: tuple[str, str]) -> None:
        with self._lock:
            self._open.pop(key, None)


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """The files to serve, and whether each is named itself. Raises UsageError."""
    seen: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder; give .cinr files on this machine, or folders of them")
        found = sorted(p for p in path.iterdir() if p.suffix == SUFFIX and p.is_file()) if path.is_dir() else [path]
        for file in found:
            if file.resolve() not in seen:  # the same file twice, by itself and in its folder, is one slide
                seen.add(file.resolve())
                yield file, not path.is_dir()


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """The files of a folder that are no `.cinr`, by name without suffix."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix != SUFFIX and path.is_file():
            found.setdefault(path.stem, []).append(path)
    return found


def _identity(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def _read(path: Path) -> Entry:
    """Raises CorruptFile, UnsupportedVersion, UsageError; OSError where it went away."""
    identity = _identity(path)
    with Container.open(path) as container:
        check_model(container)
        slide, file_bytes = container.header.slide, container.file_bytes
    if slide.channels not in (1, 3):
        raise UsageError(f"{path}: has {slide.channels} channels; slides of 1 or 3 are served")
    facts = Facts(
        id=path.stem,
        name=path.name,
        width=slide.width,
        height=slide.height,
        mpp_um=slide.mpp_um,
        objective_power=slide.objective_power,
        file_bytes=file_bytes,
        bpp=8 * file_bytes / (slide.width * slide.height),
        source=False,
    )
    return Entry(facts, path, identity)


def _with_source(entry: Entry, path: Path) -> Entry:
    """Raises UsageError where the source has another size; OSError, OpenSlideError where it is no slide."""
    identity = _identity(path)
    with openslide.open_slide(path) as source:
        wh = source.dimensions
    if wh != (entry.facts.width, entry.facts.height):
        raise UsageError(
            f"{path}: is {wh[0]} x {wh[1]} pixels, and {entry.path} is {entry.facts.width} x {entry.facts.height}; it "
            "cannot be its source"
        )
    facts = Facts(**(asdict(entry.facts) | {"source": True}))
    return Entry(facts, entry.path, entry.identity, path, identity)
