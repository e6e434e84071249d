"""The paper reproduced on a crop that a CPU can do: `python -m benchmarks.paper`, into results/paper.json and docs/.

CINR, NGP and ENGP (Lee et al., MICCAI 2024, section 3) under the same hash grid, on the same patches, for the same
steps, in floats, an epoch each in turn; and what a `.cinr` file of CINR holds of the same crop. Everything is scaled
to the crop as `paper_fit` says. After every epoch the fit is on the disk, under results/.partial/paper: the command
goes on from there, and when all is done it draws the figures again.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import torch

from inrwsi.config import from_dict, to_dict
from inrwsi.decode import Decoder
from inrwsi.encode import encode
from inrwsi.errors import InrwsiError
from inrwsi.fit.patches import PATCH_PX, Patch, cosine
from inrwsi.formats.source import open_source
from inrwsi.job import Job
from inrwsi.metrics import luma_of, psnr, ssim_maps
from inrwsi.options import EncodeOptions

from . import paper_figures, results
from .paper_crop import crop_of
from .paper_fit import MODELS, SCHEDULES, PaperFit, epoch_batches, scaled_batch, scaled_grid
from .paper_results import Curve, Epoch, FileRow, Grid, PaperRun, Rates
from .probe import library_versions
from .record import head

ROOT = Path(__file__).parent.parent
WORK = Path(__file__).parent / "results/.partial/paper"
SIDE_PX = 256
EPOCHS = {"tuned": 30, "reference": 10}
SEED = 0
FILES = ("cinr",)  # models whose file is made too; `rate_distortion --models` has all of them


@click.command()
@click.option(
    "--slide",
    type=click.Path(path_type=Path),
    default=Path("../shared/slides/slide-40x.tiff"),
    show_default=True,
    help="The crop with the most detail is taken.",
)
@click.option("--side", "side_px", type=click.IntRange(64, 4096), default=SIDE_PX, show_default=True, help="Pixels.")
@click.option("--epochs", type=click.IntRange(1), default=EPOCHS["tuned"], show_default=True)
@click.option(
    "--reference-epochs",
    type=click.IntRange(1),
    default=EPOCHS["reference"],
    show_default=True,
    help="With the reference's learning rate.",
)
@click.option("--out", type=click.Path(path_type=Path), default=ROOT, show_default=True, help="The checkout.")
@click.option("--overwrite", is_flag=True, help="Begin again.")
def main(slide: Path, side_px: int, epochs: int, reference_epochs: int, out: Path, overwrite: bool) -> None:
    """CINR against NGP and ENGP on one crop: PSNR and SSIM by epoch and time, differences and their spectra."""
    command = f"python -m benchmarks.paper --slide {slide.name}"
    defaults = {"--side": (side_px, SIDE_PX), "--epochs": (epochs, EPOCHS["tuned"])}
    defaults["--reference-epochs"] = (reference_epochs, EPOCHS["reference"])
    command += "".join(f" {name} {value}" for name, (value, default) in defaults.items() if value != default)
    try:
        pixels, l0_xy = crop_of(slide, side_px)
        wanted = {"tuned": epochs, "reference": reference_epochs}
        bench = Bench(pixels, wanted, WORK / digest(pixels)[:8], overwrite=overwrite)
        for line in bench.lines():
            click.echo(line)
        run = results.save(bench.record(command, slide.name, l0_xy), out / "benchmarks/results/paper.json")
        paper_figures.write(run, out)
        paper_figures.picture(pixels, bench.pictures(), out / "docs/paper_difference.png")
    except InrwsiError as error:
        click.echo(f"paper: {error}", err=True)
        raise SystemExit(error.exit_code) from None


class Trial:
    """One network under one schedule, an epoch at a time, each on the disk when it is done.

    Args:
        pixels: (h, w, 3) uint8.
        epochs: in all; those that `work` holds are not done again.

    Raises:
        UsageError: `work` holds a fit of another crop or other settings.
    """

    def __init__(
        self, model: str, schedule: str, pixels: np.ndarray, epochs: int, work: Path, *, overwrite: bool
    ) -> None:
        self.model, self.schedule, self.pixels, self.epochs = model, schedule, pixels, epochs
        side_px = max(pixels.shape[:2])
        self.grid, self.batch, self.rates = scaled_grid(side_px), scaled_batch(side_px), SCHEDULES[schedule]
        self.fit = PaperFit(model, pixels, self.grid, self.rates, seed=SEED, device=torch.device("cpu"))
        about = {"model": model, "schedule": to_dict(self.rates), "sha256": digest(pixels), "seed": SEED}
        # A cosine has to know where it ends; a constant rate may go on for longer.
        about |= {} if self.rates.constant else {"epochs": epochs}
        self.job = Job(work / f"{schedule}-{model}", about, resume=not overwrite, overwrite=True)
        self.job.close()  # its log is not needed: an epoch is all that is kept
        self.done: list[Epoch] = []
        before = self.job.load_network()
        if before is not None:
            arrays, meta = before
            self.fit.restore(arrays)
            self.done = [from_dict(Epoch, epoch) for epoch in meta["epochs"]]
        self.total_steps = sum(len(self._batches(n)) for n in range(epochs))

    def _batches(self, epoch: int) -> list[list[Patch]]:
        return epoch_batches((self.pixels.shape[1], self.pixels.shape[0]), self.batch, SEED, epoch)

    def advance(self) -> Epoch:
        """One epoch more."""
        step, spent = (self.done[-1].steps, self.done[-1].cpu_s) if self.done else (0, 0.0)
        began = time.process_time()
        for batch in self._batches(len(self.done)):
            self.fit.step(batch, 1.0 if self.rates.constant else cosine(step, self.total_steps))
            step += 1
        spent += time.process_time() - began
        picture = self.fit.picture()
        psnr_db, ssim = float(psnr(self.pixels, picture)), ssim_of(self.pixels, picture)
        self.done.append(Epoch(len(self.done) + 1, step, round(spent, 2), psnr_db, ssim))
        self.job.save_network(self.fit.state(), {"epochs": [to_dict(epoch) for epoch in self.done]})
        return self.done[-1]


class Bench:
    """Every network under every schedule, and the file.

    Args:
        pixels: (side, side, 3) uint8.
        epochs: by schedule.
        work: the folder of what is done.
        overwrite: begin again.

    Raises:
        UsageError: `work` holds fits of another crop or other settings.
    """

    def __init__(self, pixels: np.ndarray, epochs: dict[str, int], work: Path, *, overwrite: bool = False) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.pixels, self.epochs = pixels, epochs
        self.trials = {
            schedule: [Trial(m, schedule, pixels, n, work, overwrite=overwrite) for m in MODELS]
            for schedule, n in epochs.items()
        }
        self.files_job = Job(work / "files", {"sha256": digest(pixels)}, resume=not overwrite, overwrite=True)
        self.files_job.close()
        self.files: list[FileRow] = []

    def lines(self) -> Iterator[str]:
        """Do it all; a line of text for each piece that is done."""
        warm_up(self.pixels[:64, :64])
        for schedule, trials in self.trials.items():
            for number in range(self.epochs[schedule]):
                for trial in trials:
                    if len(trial.done) > number:
                        continue
                    last = trial.advance()
                    yield (
                        f"{schedule:9} {trial.model:4} epoch {last.number:3} {last.psnr_db:6.2f} dB "
                        f"SSIM {last.ssim:.4f} {last.cpu_s:7.1f} s"
                    )
        for model in FILES:
            row = from_dict(FileRow, self.files_job.load_state(model) or to_dict(file_row(model, self.pixels)))
            self.files_job.save_state(model, to_dict(row))
            self.files.append(row)
            yield f"file      {model:4} {row.file_bytes:9,} bytes {row.psnr_db:6.2f} dB SSIM {row.ssim:.4f}"

    def pictures(self) -> dict[str, np.ndarray]:
        """(side, side, 3) uint8 of each network under the first schedule, as it stands."""
        trials = next(iter(self.trials.values()))
        return {trial.model: trial.fit.picture() for trial in trials}

    def record(self, command: str, slide: str, l0_xy: Sequence[int]) -> PaperRun:
        """What was measured."""
        side_px = len(self.pixels)
        trial = next(iter(self.trials.values()))[0]
        shape = {k: v for k, v in to_dict(trial.grid).items() if k in Grid.__dataclass_fields__}
        luma = luma_of(self.pixels)
        return PaperRun(
            **head(command, library_versions()),
            slide=slide,
            l0_xy=(l0_xy[0], l0_xy[1]),
            side_px=side_px,
            sha256=digest(self.pixels),
            seed=SEED,
            grid=Grid(**shape, parameters=trial.grid.parameter_count, entries_a_px=trial.grid.entry_count / side_px**2),
            patch_px=PATCH_PX,
            batch=trial.batch,
            rates=tuple(
                Rates(name, rates.table, rates.sine, rates.mlp, rates.constant) for name, rates in SCHEDULES.items()
            ),
            curves=tuple(self._curve(t) for trials in self.trials.values() for t in trials),
            files=tuple(self.files),
            bands=tuple(float(v) for v in paper_figures.band_ends()),
            spectrum=paper_figures.spectrum(luma - luma.mean()),
        )

    def _curve(self, trial: Trial) -> Curve:
        difference = luma_of(trial.fit.picture()) - luma_of(self.pixels)
        return Curve(
            trial.model,
            trial.schedule,
            trial.fit.network_parameters,
            tuple(trial.done),
            paper_figures.spectrum(difference),
        )


def warm_up(pixels: np.ndarray) -> None:
    """A step of each network that counts for nothing: whoever comes first would pay for compiling the kernels."""
    for model in MODELS:
        side_px = max(pixels.shape[:2])
        fit = PaperFit(model, pixels, scaled_grid(side_px), SCHEDULES["tuned"], seed=SEED, device=torch.device("cpu"))
        fit.step([Patch(0, 0, 0, pixels.shape[1], pixels.shape[0])], 1.0)


def file_row(model: str, pixels: np.ndarray, passes: int | None = None) -> FileRow:
    """A `.cinr` file of the crop at the default settings, measured on what it decodes to."""
    side_px = len(pixels)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "crop.cinr"
        began = time.process_time()
        with open_source(pixels) as source:
            encode(source, path, EncodeOptions(model=model, passes=passes, seed=SEED, device="cpu"))
        cpu_s = time.process_time() - began
        file_bytes = path.stat().st_size
        with Decoder(path, device="cpu") as decoder:
            decoded = decoder.read_region((0, 0), (side_px, side_px))
    psnr_db, ssim = float(psnr(pixels, decoded)), ssim_of(pixels, decoded)
    return FileRow(model, file_bytes, 8 * file_bytes / side_px**2, psnr_db, ssim, round(cpu_s, 1))


def ssim_of(a: np.ndarray, b: np.ndarray) -> float:
    """Mean SSIM of luma."""
    return float(ssim_maps(luma_of(a), luma_of(b))[0].mean(dtype=np.float64))


def digest(pixels: np.ndarray) -> str:
    """SHA-256 of the pixels' bytes."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


if __name__ == "__main__":
    main()
