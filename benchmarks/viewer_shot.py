"""A picture of the viewer page for the documentation, of a generated slide: `python -m benchmarks.viewer_shot`.

Needs the extras `serve` and `dev`, and a Chromium that is installed.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.applications import Starlette

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# The page is all that the browser may fetch, and its colours are those of the tiles on every machine.
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--force-color-profile=srgb"),
)
SLIDE_WH = (6000, 4500)
WINDOW_WH = (1200, 750)
VIEW = "#x=2540&y=2300&zoom=1&compare=0.55"
JPEG_QUALITY = 82  # it shows a page, not what a codec does to pixels


def find_browser() -> str | None:
    """Path of an installed Chromium, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def served(app: Starlette) -> Iterator[str]:
    """The address of an application, which runs in a thread of its own, on a port that was free."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", ws="none", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the server ended before it began to listen")
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def settle(tab: Any) -> None:
    """Wait until the view no longer changes, every tile in it is there, and all of that is drawn."""
    tab.evaluate("() => { window.settled = { hash: null, since: 0 }; }")
    tab.wait_for_function(
        """() => {
          const now = performance.now();
          const busy = document.querySelector("#viewer").getAttribute("aria-busy") !== "false";
          if (busy || !location.hash || settled.hash !== location.hash) settled = { hash: location.hash, since: now };
          return now - settled.since > 600;
        }"""
    )


def make_slide(folder: Path) -> Path:
    """A generated slide, encoded, beside its source. Returns the path of the `.cinr` file."""
    from inrwsi.encode import encode
    from inrwsi.formats.source import open_source
    from inrwsi.options import EncodeOptions
    from inrwsi.sample import write_sample

    write_sample(folder / "sample.tiff", size_wh=SLIDE_WH, seed=3)
    with open_source(folder / "sample.tiff", objective_power=20) as source:
        encode(source, folder / "sample.cinr", EncodeOptions(effort="fast"))
    return folder / "sample.cinr"


def shoot(out: Path) -> None:
    """Write the picture, JPEG."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    from inrwsi.serve import app

    browser = find_browser()
    if browser is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is installed")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = make_slide(Path(folder))
        with served(app([path])) as url:
            opened = playwright.chromium.launch(executable_path=browser, args=list(FLAGS))
            tab = opened.new_page(viewport={"width": WINDOW_WH[0], "height": WINDOW_WH[1]})
            tab.set_default_timeout(120_000)
            tab.goto(f"{url}/view/{path.stem}{VIEW}")
            settle(tab)
            tab.wait_for_selector("#psnr[data-state=measured]")
            picture = Image.open(io.BytesIO(tab.screenshot()))
            opened.close()
        picture.convert("RGB").save(out, quality=JPEG_QUALITY, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/viewer.jpg"), help="the picture to write")
    shoot(parser.parse_args().out)


if __name__ == "__main__":
    main()
