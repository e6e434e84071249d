"""The endpoints: what is asked for, checked, and answered from memory, with "not modified", or by work in a thread."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from inrwsi import __version__
from inrwsi.errors import CorruptFile, InrwsiError, UnsupportedVersion, UsageError
from inrwsi.geometry import Rect
from inrwsi.serve import iiif, page
from inrwsi.serve.deepzoom import DeepZoom
from inrwsi.serve.library import Entry, Library, UnknownSlide
from inrwsi.serve.options import ServeOptions
from inrwsi.serve.work import Busy, ClientGone, Work

STATIC = Path(__file__).parent / "static"
# A slide is a patient's: no shared cache keeps it. A browser asks each time, and is told "not modified": what it has
# may be of a file that was replaced.
CACHE = {"Cache-Control": "private, no-cache"}
ASK_AGAIN = {"Cache-Control": "no-cache"}
CLIENT_GONE = 499  # nobody sees it; nginx's number
PNG_LEVEL = 1  # of zlib: PNG is for who wants it exact, and soon
T = TypeVar("T")


def build(
    paths: Sequence[str | os.PathLike[str]], source: str | os.PathLike[str] | None, options: ServeOptions | None
) -> Starlette:
    """See `inrwsi.serve.app`."""
    return Server(paths, source, options or ServeOptions()).app()


class SourceDamaged(InrwsiError):
    """A source that was found beside a slide cannot be read."""


class Server:
    """What the endpoints share."""

    def __init__(
        self, paths: Sequence[str | os.PathLike[str]], source: str | os.PathLike[str] | None, options: ServeOptions
    ) -> None:
        self._options = options
        self._library = Library(paths, source, options)
        self._work = Work(options.threads, options.waiting, options.tile_bytes)

    def app(self) -> Starlette:
        iiif_routes = [
            Route("/{id}", self._iiif_base),
            Route("/{id}/info.json", self._iiif_info),
            Route("/{id}/{region}/{size}/{rotation}/{leaf}", self._iiif_image),
        ]
        # Other sites' pages may read what IIIF is for; the list of slides is for this server's own pages.
        cors = Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["GET", "HEAD"], expose_headers=["Link"])
        routes = [
            Route("/", self._index),
            Route("/view/{id}", self._viewer),
            Mount("/static", StaticFiles(directory=STATIC)),
            Route("/slides.json", self._slides),
            Route("/slides/{id}.json", self._slide),
            Route("/dz/{id}.dzi", self._dzi),
            Route("/dz/{id}_files/{level}/{leaf}", self._tile),
            Route("/dz-source/{id}.dzi", self._source_dzi),
            Route("/dz-source/{id}_files/{level}/{leaf}", self._source_tile),
            Route("/quality/{id}", self._quality),
            Mount("/iiif", routes=iiif_routes, middleware=[cors]),
        ]
        handlers: dict[Any, Any] = {
            UnknownSlide: partial(_told, 404),
            CorruptFile: _damaged,
            UsageError: partial(_told, 400),
            InrwsiError: partial(_told, 500),
            Busy: _busy,
            ClientGone: _nobody,
        }
        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=_lifespan)
        app.state.library, app.state.work = self._library, self._work
        return app

    # ---- pages and lists

    async def _index(self, request: Request) -> Response:
        return _page(page.index(await self._list()))

    async def _viewer(self, request: Request) -> Response:
        try:
            return _page(page.viewer((await self._entry(request)).facts.as_json()))
        except UnknownSlide as error:
            return _page(page.trouble(str(error)), 404)
        except CorruptFile as error:
            return _page(page.trouble(_damage(request, error)), 500)

    async def _slides(self, request: Request) -> Response:
        return JSONResponse(await self._list(), headers=ASK_AGAIN)

    async def _list(self) -> list[dict[str, Any]]:
        return [facts.as_json() for facts in await run_in_threadpool(self._library.facts)]

    async def _slide(self, request: Request) -> Response:
        return JSONResponse((await self._entry(request)).facts.as_json(), headers=ASK_AGAIN)

    # ---- Deep Zoom

    async def _dzi(self, request: Request) -> Response:
        facts = (await self._entry(request)).facts
        return Response(DeepZoom((facts.width, facts.height)).dzi(), media_type="application/xml", headers=ASK_AGAIN)

    async def _source_dzi(self, request: Request) -> Response:
        _source_of(await self._entry(request))
        return await self._dzi(request)

    async def _tile(self, request: Request) -> Response:
        entry = await self._entry(request)
        out, downsample = _tile_asked(request, entry)
        make = partial(self._cinr_tile, entry, out, downsample)
        return await self._picture(request, entry.identity, ("dz", out, downsample), make, "jpg", {})

    def _cinr_tile(self, entry: Entry, out: Rect, downsample: int) -> bytes:
        l0_xy, l0_wh = (out.x * downsample, out.y * downsample), (out.w * downsample, out.h * downsample)
        return self._encoded(self._library.cinr(entry).picture(l0_xy, l0_wh, step=float(downsample)), "jpg")

    async def _source_tile(self, request: Request) -> Response:
        entry = _source_of(await self._entry(request))
        out, downsample = _tile_asked(request, entry)
        make = partial(self._of_source, entry, lambda s: self._encoded(s.picture(out, downsample), "jpg"))
        return await self._picture(request, entry.source_identity, ("dz-source", out, downsample), make, "jpg", {})

    def _of_source(self, entry: Entry, read: Callable[[Any], T]) -> T:
        try:
            return read(self._library.source(entry))
        except UsageError as error:
            self._library.forget_source(entry)
            raise SourceDamaged(f"the source of {entry.facts.id}: {error}") from error

    # ---- IIIF

    async def _iiif_base(self, request: Request) -> Response:
        entry = await self._entry(request)
        return RedirectResponse(f"{_iiif_address(request, entry)}/info.json", status_code=303)

    async def _iiif_info(self, request: Request) -> Response:
        entry = await self._entry(request)
        wh = (entry.facts.width, entry.facts.height)
        document = iiif.info(wh, _iiif_address(request, entry), self._options.max_side_px)
        headers = ASK_AGAIN | {"Vary": "Accept", "Link": f'<{iiif.PROFILE}>;rel="profile"'}
        media_type = iiif.info_media_type(request.headers.get("accept"))
        return Response(json.dumps(document, indent=1), media_type=media_type, headers=headers)

    async def _iiif_image(self, request: Request) -> Response:
        entry = await self._entry(request)
        wh, most = (entry.facts.width, entry.facts.height), self._options.max_side_px
        path = request.path_params
        asked = iiif.parse(path["region"], path["size"], path["rotation"], path["leaf"], wh, most)
        canonical = f"{_iiif_address(request, entry)}/{asked.canonical(wh, most)}"
        headers = {"Link": f'<{iiif.PROFILE}>;rel="profile", <{canonical}>;rel="canonical"'}
        make = partial(self._iiif_picture, entry, asked)
        return await self._picture(request, entry.identity, ("iiif", asked), make, asked.format, headers)

    def _iiif_picture(self, entry: Entry, asked: iiif.ImageRequest) -> bytes:
        return self._encoded(iiif.render(self._library.cinr(entry), asked), asked.format)

    # ---- quality

    async def _quality(self, request: Request) -> Response:
        from inrwsi.serve.quality import View  # torch

        entry = await self._entry(request)
        numbers = [_number(request, name) for name in ("x", "y", "w", "h", "downsample")]
        view = View.of((entry.facts.width, entry.facts.height), (*numbers[:4],), numbers[4])  # type: ignore[arg-type]
        key = ("quality", entry.facts.id, entry.identity, entry.source_identity, view)
        body = await self._made(request, key, partial(self._measured, entry, view))
        return Response(body, media_type="application/json", headers=ASK_AGAIN)

    def _measured(self, entry: Entry, view: Any) -> bytes:
        from inrwsi.serve.quality import view_bits, view_psnr_db

        slide = self._library.cinr(entry)
        bits = view_bits(slide, view)
        psnr_db = None
        if entry.source_path is not None:
            psnr_db = round(self._of_source(entry, lambda s: float(view_psnr_db(slide, s, view))), 4)
        return json.dumps({"bits": round(bits), "bpp": bits / view.pixels, "psnr_db": psnr_db}).encode()

    # ---- all of them

    async def _entry(self, request: Request) -> Entry:
        return await run_in_threadpool(self._library.entry, request.path_params["id"])

    async def _picture(
        self,
        request: Request,
        identity: str,
        asked: tuple[Any, ...],
        make: Callable[[], bytes],
        suffix: str,
        headers: dict[str, str],
    ) -> Response:
        """A picture, or that the client has it: its tag is known before it is made."""
        key = (request.path_params["id"], identity, *asked)
        tag = f'"{hashlib.sha256(repr((__version__, self._options.jpeg_quality, *key)).encode()).hexdigest()[:32]}"'
        headers = CACHE | {"ETag": tag} | headers
        if _has(request.headers.get("if-none-match"), tag):
            return Response(status_code=304, headers=headers)
        body = await self._made(request, key, make)
        return Response(body, media_type="image/png" if suffix == "png" else "image/jpeg", headers=headers)

    async def _made(self, request: Request, key: Hashable, make: Callable[[], bytes]) -> bytes:
        try:
            return await self._work.get(key, make, request)
        except CorruptFile:
            raise
        except InrwsiError as error:  # what was asked for has been checked: this is no mistake of the client's
            reason = f": {error}" if isinstance(error, UnsupportedVersion) else ""  # others name a path
            raise HTTPException(500, f"slide {request.path_params['id']!r} cannot be read{reason}") from error

    def _encoded(self, image: Image.Image, suffix: str) -> bytes:
        buffer = io.BytesIO()
        if suffix == "png":
            image.save(buffer, "png", compress_level=PNG_LEVEL)
        else:
            image = image.convert("L") if image.mode == "1" else image
            image.save(buffer, "jpeg", quality=self._options.jpeg_quality, subsampling=0)
        return buffer.getvalue()


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    """Import torch while the first page loads."""
    warming = asyncio.create_task(run_in_threadpool(import_module, "inrwsi.serve.quality"))
    yield
    await warming


def _page(html: str, status: int = 200) -> Response:
    headers = ASK_AGAIN | {"Content-Security-Policy": page.CONTENT_SECURITY_POLICY}
    return HTMLResponse(html, status, headers=headers)


def _iiif_address(request: Request, entry: Entry) -> str:
    return f"{request.base_url}iiif/{quote(entry.facts.id, safe='')}"


def _source_of(entry: Entry) -> Entry:
    if entry.source_path is None:
        raise UnknownSlide(f"slide {entry.facts.id!r} has no source beside it")
    return entry


def _tile_asked(request: Request, entry: Entry) -> tuple[Rect, int]:
    """The tile's rectangle in pixels of its level, and the level's downsample. Raises HTTPException 400 and 404."""
    level, leaf = request.path_params["level"], request.path_params["leaf"]
    match = re.fullmatch(r"(\d{1,2})/(\d{1,12})_(\d{1,12})\.(?:jpeg|jpg)", f"{level}/{leaf}", re.ASCII)
    if match is None:
        raise HTTPException(400, f"{level}/{leaf} is not a tile; it should be like 12/3_4.jpeg")
    zoom = DeepZoom((entry.facts.width, entry.facts.height))
    number, column, row = (int(v) for v in match.groups())
    try:
        return zoom.tile(number, (column, row)), zoom.downsample(number)
    except LookupError as error:
        raise HTTPException(404, str(error)) from None


def _number(request: Request, name: str) -> float:
    text = request.query_params.get(name)
    try:
        return float(text or "")
    except ValueError:
        raise UsageError(f"{name} is {text!r}; it should be a number") from None


def _has(if_none_match: str | None, tag: str) -> bool:
    """Whether an If-None-Match header names the tag; weak ones count (RFC 9110, section 13.1.2)."""
    names = [name.strip().removeprefix("W/") for name in (if_none_match or "").split(",")]
    return tag in names or "*" in names


# ---- errors: a sentence, and never a path of this machine


async def _told(status: int, request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", status, headers={"Cache-Control": "no-store"})


async def _damaged(request: Request, error: CorruptFile) -> Response:
    return await _told(500, request, UsageError(_damage(request, error)))


def _damage(request: Request, error: CorruptFile) -> str:
    return f"{request.path_params.get('id')}: damaged ({error.cause}): {error.where}"


async def _busy(request: Request, error: Exception) -> Response:
    headers = {"Cache-Control": "no-store", "Retry-After": "1"}
    return PlainTextResponse("too many pictures wait to be made; ask again soon\n", 503, headers=headers)


async def _nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)
