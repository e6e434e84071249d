"""The slides that a server has: found by name, opened when they are asked for, a few held open at a time."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from inrwsi.errors import CorruptFile, InrwsiError, UsageError
from inrwsi.formats.container import Container
from inrwsi.formats.source import source_wh
from inrwsi.options import check_model
from inrwsi.serve.options import ServeOptions

if TYPE_CHECKING:
    from inrwsi.serve.slides import OpenCinr, OpenSource

SUFFIX = ".cinr"
LOOK_AGAIN_S = 1.0  # at the earliest, at what is in the folders
T = TypeVar("T", "OpenCinr", "OpenSource")


class UnknownSlide(UsageError):
    """There is no slide of this id, or no longer."""


class NoSlide(UsageError):
    """A file is no slide that could be a source."""


class NameTaken(UsageError):
    """Two slides would have one id."""


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

    Files that are put into a folder later, or taken out of it, are found when the list or an unknown id is asked for.

    Args:
        paths, source: as of `inrwsi.serve.app`.

    Raises:
        as `inrwsi.serve.app`.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        source: str | os.PathLike[str] | None,
        options: ServeOptions,
    ) -> None:
        self._options = options
        self._lock = threading.Lock()  # of what the next three hold; who looks at the folders takes _looking first
        self._entries: dict[str, Entry] = {}
        self._left_out: dict[Path, tuple[str, str]] = {}  # what it was when it was left out, and why
        self._cinr: Held[OpenCinr] = Held(0)
        self._sources: Held[OpenSource] = Held(0)
        self._looking = threading.Lock()
        found = [Path(path) for path in paths]
        for path in found:
            if not path.exists():
                raise UsageError(
                    f"{path}: no such file or folder; give .cinr files on this machine, or folders of them"
                )
        self._folders = tuple(path for path in found if path.is_dir())
        self._named = tuple(path for path in found if not path.is_dir())
        for path in self._named:
            self._add(path, _by_stem(path.parent).get(path.stem, []))
        for folder in self._folders:
            for path, beside in _files(folder):
                self._find(path, beside, strict=True)
        if not self._entries:
            raise UsageError(f"{', '.join(map(str, paths)) or 'nothing'}: there is no .cinr file to serve")
        if source is not None:
            self._pair(Path(source))
        self._share()
        self._looked_s = time.monotonic()

    @property
    def skipped(self) -> list[str]:
        """A sentence for each file of a folder that is not served, and each source that is not its slide's."""
        with self._lock:
            return [sentence for _, sentence in self._left_out.values() if sentence]

    def refresh(self) -> None:
        """Look at what is in the folders by now, unless that was done a moment ago."""
        with self._looking:
            if time.monotonic() - self._looked_s < LOOK_AGAIN_S:
                return
            for folder in self._folders:
                with suppress(OSError):  # a folder that cannot be read just now keeps its slides
                    self._look(folder)
            self._share()
            self._looked_s = time.monotonic()

    def _look(self, folder: Path) -> None:
        files = _files(folder)
        here = {path for path, _ in files}
        with self._lock:
            known = {entry.path: slide_id for slide_id, entry in self._entries.items()}
            gone = [path for path in known.keys() - here - set(self._named) if path.parent == folder]
            for path in gone:
                del self._entries[known[path]]
            if gone:  # one that was left out may have wanted the name
                self._left_out.clear()
        for path, beside in files:
            self._find(path, beside, strict=False)

    def _find(self, path: Path, beside: Sequence[Path], *, strict: bool) -> None:
        """A file of a folder, which is left out where it cannot be served; if `strict`, not for its name."""
        try:
            if not self._tried(path):
                self._add(path, beside)
        except NameTaken as error:
            if strict:
                raise
            self._leave_out(path, str(error))
        except InrwsiError as error:
            self._leave_out(path, str(error))
        except OSError:  # it went away, or is another's who has yet to give it to us
            return

    def _tried(self, path: Path) -> bool:
        """Whether it was left out as it is now: one that is still being copied is another at the next look."""
        with self._lock:
            return path in self._left_out and self._left_out[path][0] == _identity(path)

    def _leave_out(self, path: Path, sentence: str) -> None:
        with suppress(OSError), self._lock:
            self._left_out[path] = (_identity(path), sentence)

    def _add(self, path: Path, beside: Sequence[Path]) -> None:
        """A file that is new, that has changed, or that may have a source beside it by now.

        Raises:
            NameTaken; CorruptFile, UnsupportedVersion, UsageError, OSError: it cannot be served.
        """
        with self._lock:
            entry = self._entries.get(path.stem)
        if entry is not None and not _same(entry.path, path):
            raise NameTaken(f"{path}: another slide is called {path.stem} too, {entry.path}; rename one of them")
        if entry is None or _identity(path) != entry.identity:
            if entry is not None and entry.source_path is not None:
                beside = (entry.source_path, *beside)
            entry = _read(path)
        if entry.source_path is None:
            entry = self._with_neighbour(entry, beside)
        with self._lock:
            self._entries[path.stem] = entry
            self._left_out.pop(path, None)

    def _with_neighbour(self, entry: Entry, beside: Sequence[Path]) -> Entry:
        """With the source that lies beside the file under its name, where there is one."""
        for path in beside:
            try:
                if not self._tried(path):
                    return _with_source(entry, path)
            except (NoSlide, OSError):
                self._leave_out(path, "")
            except UsageError as error:
                self._leave_out(path, str(error))
        return entry

    def _share(self) -> None:
        """Have as many slides open as there are, up to the limit; what is kept decoded is shared among them."""
        with self._lock:
            held = max(1, min(self._options.open_slides, len(self._entries)))
            if held != self._cinr.most:
                self._cinr, self._sources = Held(held), Held(held)

    def _pair(self, source: Path) -> None:
        if len(self._entries) > 1:
            raise UsageError(
                f"{source}: a source is given for {len(self._entries)} slides; give it with one .cinr file, or put "
                "each source beside its slide, under the same name"
            )
        ((slide_id, entry),) = self._entries.items()
        try:
            self._entries[slide_id] = _with_source(entry, source)
        except NoSlide as error:
            raise UsageError(f"{error}; --source should be the slide that was encoded") from None
        self._left_out.pop(source, None)

    def facts(self) -> list[Facts]:
        """All slides that there are now, by name."""
        self.refresh()
        with self._lock:
            return [self._entries[slide_id].facts for slide_id in sorted(self._entries)]

    def entry(self, slide_id: str) -> Entry:
        """A slide as its file is now; what was replaced is read again.

        Raises:
            UnknownSlide: there is none of this id.
            CorruptFile: it was replaced by a damaged file.
        """
        if slide_id not in self._entries:
            self.refresh()
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
        except (OSError, InrwsiError):  # whose sentences name a path, which is no business of who asks
            raise UnknownSlide(f"slide {slide_id!r} went away, or was replaced by what cannot be served") from None
        return entry

    def cinr(self, entry: Entry) -> OpenCinr:
        """The slide, open. Raises CorruptFile, UnsupportedVersion, UsageError."""
        from inrwsi.serve.slides import OpenCinr  # torch

        held, key = self._cinr, (entry.facts.id, entry.identity)
        decoded_bytes = self._options.decoded_bytes // held.most
        return held.get(key, lambda: OpenCinr(entry.path, self._options.device, decoded_bytes))

    def source(self, entry: Entry) -> OpenSource:
        """Its source, open. Raises UnknownSlide where it has none; UsageError."""
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
        self.most = most
        self._open: OrderedDict[tuple[str, str], T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, str], opens: Any) -> T:
        with self._lock:
            if key not in self._open:
                self._open[key] = opens()
                # An older content of the same slide goes first, then what was longest not asked for.
                for old in [k for k in self._open if k[0] == key[0] and k != key]:
                    del self._open[old]
                if len(self._open) > self.most:
                    self._open.popitem(last=False)
            self._open.move_to_end(key)
            return self._open[key]

    def drop(self, key: tuple[str, str]) -> None:
        with self._lock:
            self._open.pop(key, None)


def _files(folder: Path) -> list[tuple[Path, list[Path]]]:
    """The `.cinr` files of a folder, each with the others of its name that lie beside it. Raises OSError."""
    others = _by_stem(folder)
    files = (path for path in sorted(folder.iterdir()) if path.suffix.lower() == SUFFIX and path.is_file())
    return [(path, others.get(path.stem, [])) for path in files]


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """The files of a folder that are no `.cinr`, by name without suffix. Raises OSError."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() != SUFFIX and path.is_file():
            found.setdefault(path.stem, []).append(path)
    return found


def _same(a: Path, b: Path) -> bool:
    return a == b or a.resolve() == b.resolve()


def _identity(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def _read(path: Path) -> Entry:
    """Raises CorruptFile, UnsupportedVersion, UsageError; OSError where it went away."""
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{str(path)!r}: its name is not of UTF-8, so no address can be; rename it") from None
    identity = _identity(path)
    with Container.open(path) as container:
        check_model(container)
        slide, file_bytes = container.header.slide, container.file_bytes
    if not slide.is_picture:
        raise UsageError(f"{path}: has {slide.samples}; slides of 1 or 3 channels of 8 bits are served")
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
    """Raises NoSlide; UsageError where the source has another size."""
    try:
        identity, wh = _identity(path), source_wh(path)
    except UsageError as error:
        raise NoSlide(str(error)) from None
    except OSError as error:
        raise NoSlide(f"{path}: {'no such file' if isinstance(error, FileNotFoundError) else error.strerror}") from None
    if wh != (entry.facts.width, entry.facts.height):
        raise UsageError(
            f"{path}: is {wh[0]} x {wh[1]} pixels, and {entry.path} is {entry.facts.width} x {entry.facts.height}; it "
            "cannot be its source"
        )
    facts = Facts(**(asdict(entry.facts) | {"source": True}))
    return Entry(facts, entry.path, entry.identity, path, identity)
