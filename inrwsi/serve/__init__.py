"""A server of `.cinr` files: Deep Zoom, IIIF Image API 3.0 and a viewer page. Needs the extra `serve`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from inrwsi.errors import BackendUnavailable

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from inrwsi.serve.options import ServeOptions

__all__ = ["app"]


def app(
    paths: Sequence[str | os.PathLike[str]],
    *,
    source: str | os.PathLike[str] | None = None,
    options: ServeOptions | None = None,
) -> Starlette:
    """An ASGI application that serves slides. `app.state.library.facts()` lists them, `.skipped` says what was left.

    Args:
        paths: `.cinr` files, and folders whose `.cinr` files are served (not those of folders in them), also those
            that are put there later. A slide is known by its file's name without the suffix.
        source: the slide that the one `.cinr` file was encoded from, to compare it with. In a folder it is the file
            of the same name with another suffix.
        options: limits and qualities.

    Raises:
        BackendUnavailable: Starlette is not installed.
        UsageError: a path is not there, two files have one name, `source` does not fit, or there is no slide at all.
        CorruptFile, UnsupportedVersion: of a file that is named itself; in a folder it is left out.
    """
    try:
        from inrwsi.serve.server import build
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "starlette":
            raise
        raise BackendUnavailable("serving slides needs Starlette; install it with pip install inrwsi[serve]") from None
    return build(paths, source, options)
