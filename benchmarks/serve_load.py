"""Many people at one slide: tiles a second and their times, of `inrwsi serve` and of OpenSlide's Deep Zoom generator.

    python -m benchmarks.serve_load --cinr slide.cinr --source slide.svs [--seconds 60] [--clients 16] [--out FILE]

Each client looks at a screen of 1280 x 800 pixels, pans and zooms by a seeded random walk, asks for the tiles that it
has not seen over six connections that stay open, as browsers do, and looks at them for a while. The last server, a
small Starlette application over `openslide.deepzoom`, has the slide that the file was encoded from; as OpenSlide's own
examples, it keeps no tiles, which is why ours is also measured without. All give tiles of one size, as JPEG of one
quality, to the same walks, one server after the other, on the cores that the clients have too.
"""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import re
import shlex
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from inrwsi.errors import BackendUnavailable, InrwsiError, UsageError
from inrwsi.serve.deepzoom import OVERLAP_PX, TILE_PX
from inrwsi.serve.options import ServeOptions, cores

from . import results
from .record import head
from .results import Record
from .serve_walk import SCREEN_WH, Tile, Walk

if TYPE_CHECKING:
    import aiohttp
    from starlette.applications import Starlette

CONNECTIONS = 6
JPEG_QUALITY = 90
SECONDS_TO_START = 120.0
LIBRARIES = ("inrwsi", "openslide-python", "openslide-bin", "pillow", "torch", "starlette", "uvicorn", "aiohttp")


@dataclass(frozen=True)
class Load:
    """One server under load.

    Attributes:
        server: of `SERVERS`.
        tiles, errors: answers that were a JPEG, and those that were not.
        first_error: what the first of these was.
        tiles_a_second: over the whole time, looking included.
        p50_ms, p95_ms, max_ms: of a tile, from when it is sent for over a free connection to its last byte.
        bytes_sent: of tiles.
        server_mb: the most memory that the server had, in MB of 10^6 bytes; None off Linux.
    """

    server: str
    tiles: int
    errors: int
    tiles_a_second: float
    p50_ms: float
    p95_ms: float
    max_ms: float
    bytes_sent: int
    server_mb: float | None = None
    first_error: str = ""


@dataclass(frozen=True)
class LoadRun(Record):
    """All servers, in one run."""

    slide: dict[str, Any]
    settings: dict[str, Any]
    servers: tuple[Load, ...]
    schema: int = 1


@dataclass
class Tally:
    """What the clients met."""

    seconds: list[float] = field(default_factory=list)
    bytes_sent: int = 0
    errors: list[str] = field(default_factory=list)


@click.command()
@click.option("--cinr", required=True, type=click.Path(path_type=Path), help="The slide, encoded.")
@click.option("--source", required=True, type=click.Path(path_type=Path), help="The slide that it was encoded from.")
@click.option("--seconds", type=click.FloatRange(0.1), default=60.0, show_default=True, help="A server.")
@click.option("--clients", type=click.IntRange(1, 1000), default=16, show_default=True)
@click.option("--look", type=click.FloatRange(0), default=1.0, show_default=True, help="Seconds at a view, on average.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the walks.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("benchmarks/results/serve_load.json"),
    show_default=True,
    help="The JSON file to write.",
)
def main(cinr: Path, source: Path, seconds: float, clients: int, look: float, seed: int, out: Path) -> None:
    """Load the servers by turns, and write what became of it."""
    try:
        run = measure(cinr, source, seconds=seconds, clients=clients, look_s=look, seed=seed, say=click.echo)
    except InrwsiError as error:
        click.echo(f"serve_load: {error}", err=True)
        sys.exit(error.exit_code)
    results.save(run, out)
    sys.exit(any(load.errors for load in run.servers))


def measure(
    cinr: Path,
    source: Path,
    *,
    seconds: float,
    clients: int,
    look_s: float,
    seed: int,
    say: Callable[[str], object] = lambda text: None,
) -> LoadRun:
    """Load the servers.

    Raises:
        UsageError: a slide is not there or is not the other's, or a server does not start.
        BackendUnavailable: a package is missing.
    """
    try:
        import aiohttp  # noqa: F401
        import uvicorn  # noqa: F401

        from inrwsi.serve import app
    except ModuleNotFoundError as error:
        raise BackendUnavailable(f"{error.name} is not installed: pip install inrwsi[serve,http]") from None
    facts = app([cinr], source=source).state.library.facts()[0]
    walks = [Walk((facts.width, facts.height), seed * 1000 + number) for number in range(clients)]
    loads = []
    for name, serve in SERVERS.items():
        say(f"{name}: {clients} clients, {seconds:g} s")
        path, slide_id = (source, "slide") if serve is _serve_openslide else (cinr, quote(facts.id, safe=""))
        with _process(serve, str(path)) as (port, pid):
            base = f"http://127.0.0.1:{port}/dz/{slide_id}_files"
            tally = asyncio.run(_load(base, [walk.again() for walk in walks], seconds, look_s))
            loads.append(summary(name, tally, seconds, _peak_mb(pid)))
        say(f"  {line(loads[-1])}")
    slide = {"name": source.name, "width": facts.width, "height": facts.height, "source_bytes": source.stat().st_size}
    settings = {"seconds": seconds, "clients": clients, "look_s": look_s, "seed": seed, "screen_wh": list(SCREEN_WH)}
    settings |= {"connections": CONNECTIONS, "tile_px": TILE_PX, "overlap_px": OVERLAP_PX, "jpeg_quality": JPEG_QUALITY}
    versions = {name: version(name) for name in LIBRARIES}
    return LoadRun(
        **head("python -m benchmarks.serve_load " + shlex.join(sys.argv[1:]), versions),
        slide=slide | {"cinr_bytes": facts.file_bytes, "bpp": round(facts.bpp, 4)},
        settings=settings,
        servers=tuple(loads),
    )


def line(load: Load) -> str:
    """For a person."""
    return (
        f"{load.tiles:,} tiles, {load.errors} errors, {load.tiles_a_second:.1f} tiles/s; "
        f"p50 {load.p50_ms:.0f} ms, p95 {load.p95_ms:.0f} ms, most {load.max_ms:.0f} ms a tile"
    )


def summary(server: str, tally: Tally, seconds: float, server_mb: float | None) -> Load:
    """Raises UsageError where there was no tile at all."""
    if not tally.seconds:
        raise UsageError(f"{server}: no tile came in {seconds:g} s ({(tally.errors or ['no error'])[0]})")
    ms = sorted(1000 * s for s in tally.seconds)
    cuts = statistics.quantiles(ms, n=100, method="inclusive") if len(ms) > 1 else ms * 99
    return Load(
        server=server,
        tiles=len(ms),
        errors=len(tally.errors),
        tiles_a_second=round(len(ms) / seconds, 2),
        p50_ms=round(cuts[49], 2),
        p95_ms=round(cuts[94], 2),
        max_ms=round(ms[-1], 2),
        bytes_sent=tally.bytes_sent,
        server_mb=server_mb,
        first_error=tally.errors[0] if tally.errors else "",
    )


# ---- who looks


async def _load(base: str, walks: list[Walk], seconds: float, look_s: float) -> Tally:
    """All clients at once for `seconds`. What a server does once, on its first tiles, is not counted."""
    import aiohttp

    tally = Tally()
    async with aiohttp.ClientSession() as session:
        await _fetch(session, f"{base}/0/0_0.jpeg", Tally())
    ends_s = time.perf_counter() + seconds
    await asyncio.gather(*(_client(base, walk, ends_s, look_s, tally) for walk in walks))
    return tally


async def _client(base: str, walk: Walk, ends_s: float, look_s: float, tally: Tally) -> None:
    async with _session() as session:
        await asyncio.sleep(walk.pause_s(look_s))  # they do not all come in at once
        for tiles in walk:
            queue = iter(tiles)

            async def one_connection(queue: Iterator[Tile] = queue) -> None:
                for level, column, row in queue:
                    if time.perf_counter() >= ends_s:
                        return
                    await _fetch(session, f"{base}/{level}/{column}_{row}.jpeg", tally)

            await asyncio.gather(*(one_connection() for _ in range(CONNECTIONS)))
            if time.perf_counter() >= ends_s:
                return
            await asyncio.sleep(min(walk.pause_s(look_s), max(0.0, ends_s - time.perf_counter())))


@asynccontextmanager
async def _session() -> AsyncIterator[aiohttp.ClientSession]:
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as session:
        yield session


async def _fetch(session: aiohttp.ClientSession, address: str, tally: Tally) -> None:
    import aiohttp

    began_s = time.perf_counter()
    try:
        async with session.get(address) as answer:
            body = await answer.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        tally.errors.append(f"{address}: {error or type(error).__name__}")
        return
    if answer.status != 200 or not body.startswith(b"\xff\xd8\xff"):
        tally.errors.append(f"{address}: {answer.status} {body[:100]!r}")
        return
    tally.seconds.append(time.perf_counter() - began_s)
    tally.bytes_sent += len(body)


# ---- who serves


def openslide_app(path: str) -> Starlette:
    """OpenSlide's Deep Zoom generator behind one endpoint, in as many threads as there are cores."""
    import openslide
    from anyio.to_thread import current_default_thread_limiter
    from openslide.deepzoom import DeepZoomGenerator
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    zoom = DeepZoomGenerator(openslide.open_slide(path), TILE_PX, OVERLAP_PX, limit_bounds=False)

    def tile(request: Request) -> Response:
        match = re.fullmatch(r"(\d+)_(\d+)\.jpeg", request.path_params["leaf"])
        if match is None:
            return Response(status_code=400)
        buffer = io.BytesIO()
        image = zoom.get_tile(request.path_params["level"], (int(match[1]), int(match[2])))
        image.save(buffer, "jpeg", quality=JPEG_QUALITY, subsampling=0)
        return Response(buffer.getvalue(), media_type="image/jpeg")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = cores()  # of 40 tiles at once each would take 20 times as long
        yield

    return Starlette(routes=[Route("/dz/slide_files/{level:int}/{leaf}", tile)], lifespan=lifespan)


def _serve_inrwsi(path: str, ports: Any) -> None:
    _serve_ours(path, ports, ServeOptions(jpeg_quality=JPEG_QUALITY))


def _serve_inrwsi_anew(path: str, ports: Any) -> None:
    _serve_ours(path, ports, ServeOptions(jpeg_quality=JPEG_QUALITY, tile_bytes=0))


def _serve_ours(path: str, ports: Any, options: ServeOptions) -> None:
    from inrwsi.serve import app

    _serve(app([path], options=options), ports)


def _serve_openslide(path: str, ports: Any) -> None:
    _serve(openslide_app(path), ports)


SERVERS: dict[str, Callable[[str, Any], None]] = {
    "inrwsi": _serve_inrwsi,
    "inrwsi, no tiles kept": _serve_inrwsi_anew,
    "openslide": _serve_openslide,
}


def _serve(app: Starlette, ports: Any) -> None:
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as listening:
        ports.send(listening.getsockname()[1])
        config = uvicorn.Config(app, log_level="error", access_log=False, ws="none", timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listening])


@contextmanager
def _process(serve: Callable[[str, Any], None], path: str) -> Iterator[tuple[int, int]]:
    """A server in a process of its own until the block ends; its port and process number."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=serve, args=(path, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        try:
            port = ours.recv() if ours.poll(SECONDS_TO_START) else None
        except EOFError:
            port = None
        if port is None or process.pid is None:
            raise UsageError(f"{path}: its server did not start")
        yield port, process.pid
    finally:
        ours.close()
        process.terminate()
        process.join()


def _peak_mb(pid: int) -> float | None:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    return None if match is None else round(int(match[1]) * 1024 / 1e6, 1)


if __name__ == "__main__":
    main()
