"""`inrwsi serve`: slides in a browser, and to whatever speaks Deep Zoom or IIIF."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import click

from inrwsi.cli.params import cache_option, device_option, jpeg_quality_option, quiet_option
from inrwsi.errors import BackendUnavailable, UsageError

SECONDS_TO_FINISH = 3


@click.command(
    epilog="""\b
Examples:
  inrwsi serve slide.cinr
  inrwsi serve slide.cinr --source slide.svs --port 0
  inrwsi serve folder/of/slides --port 8000"""
)
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The slide that the one .cinr file was encoded from, to look at beside it. In a folder it is the file of the "
    "same name with another suffix.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Where to listen. Anyone who reaches another address than this one can see the slides.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, metavar="N", help="0: any that is free."
)
@device_option
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Most tiles to decode at once, a CPU thread each.  [default: one a core]",
)
@cache_option(
    "Memory for what is decoded, of all slides together; half as much again for tiles as they were sent.",
    default_mb=512,
)
@jpeg_quality_option("Of the JPEG tiles that are sent.")
@quiet_option
def serve(
    paths: tuple[Path, ...],
    source: Path | None,
    host: str,
    port: int,
    device: str,
    threads: int | None,
    cache_mb: int,
    quality: int,
    quiet: bool,
) -> None:
    """Serve PATHS, .cinr files and folders of them, until Ctrl-C: a viewer page, Deep Zoom and IIIF Image API 3.0."""
    from inrwsi.serve import app
    from inrwsi.serve.options import ServeOptions

    try:
        import uvicorn
    except ModuleNotFoundError:
        raise BackendUnavailable("serving slides needs uvicorn; install it with pip install inrwsi[serve]") from None
    options = ServeOptions(
        device=device,
        decodes=threads,
        decoded_bytes=cache_mb << 20,
        tile_bytes=cache_mb << 19,
        jpeg_quality=quality,
    )
    application = app(paths, source=source, options=options)
    for sentence in application.state.library.skipped:
        click.echo(f"inrwsi: left out: {sentence}", err=True)
    slides = application.state.library.facts()
    with _listen(host, port) as listening:
        if not quiet:
            what = slides[0].name if len(slides) == 1 else f"{len(slides)} slides"
            click.echo(f"{what} at {_address(listening)} (Ctrl-C ends it)")
        config = uvicorn.Config(
            application, log_level="warning", access_log=False, timeout_graceful_shutdown=SECONDS_TO_FINISH
        )
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:  # it has finished what it was at; this is how a server is meant to end
            if not quiet:
                click.echo("stopped", err=True)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (socket.gaierror, UnicodeError):  # the latter of what could be no name: a..b
        raise UsageError(f"--host {host}: there is no such address; 0.0.0.0 is all of this machine's") from None
    except OSError as error:
        reason = os.strerror(error.errno or 0)  # Python's own text repeats the address
        raise UsageError(
            f"port {port} of {host} cannot be had ({reason}); give another with --port, or 0 for any free one"
        ) from None


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
