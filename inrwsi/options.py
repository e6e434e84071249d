"""What an encoding is asked to do, what can be said against it at once, and what became of it. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from inrwsi.coding.base_layer import KINDS
from inrwsi.errors import UnsupportedVersion, UsageError
from inrwsi.fields.models import model_names
from inrwsi.formats.container import Container
from inrwsi.formats.source import SlideSource

EFFORTS = ("fast", "default", "best")
OF_OCTAVES = ("quality", "effort", "self_contained", "tune")
LOSSES = ("mse", "ms-ssim", "stain", "nuclei", "segmentation", "perceptual")
OF_NETWORKS = ("segmentation", "perceptual")  # losses
TUNES = ("balanced", "psnr", "ms-ssim")  # of `octaves_model.TUNINGS`, which is not imported here for its numba
OPTIMISERS = ("adam", "soap")
OF_FIELDS = (
    *("bpp", "passes", "tile_px", "weight_bits", "prior", "prior_quality"),
    *("loss", "loss_network", "optimiser"),
)
TARGETS = ("quality", "psnr_db", "ratio", "size_bytes")
FIELD_TARGETS = ("psnr_db", "ratio", "size_bytes", "bpp")
DEFAULT_QUALITY = 60.0
DEFAULT_BPP, LEAST_BPP, MOST_BPP = 4.0, 0.02, 24.0
DEFAULT_PRIOR_QUALITY = 30.0


def known_models() -> tuple[str, ...]:
    """Names of all models: the default, and those that are fitted by descent."""
    return ("octaves", *model_names())


@dataclass(frozen=True)
class FieldSettings:
    """How to encode with a fitted model: attributes of `EncodeOptions`; at most one target is not None."""

    tile_px: int
    passes: int
    bpp: float | None = None
    psnr_db: float | None = None
    ratio: float | None = None
    size_bytes: int | None = None
    weight_bits: int = 8
    prior: str | None = None
    prior_quality: float = DEFAULT_PRIOR_QUALITY
    loss: str = "mse"
    loss_network: str | Path | None = None
    optimiser: str = "adam"


@dataclass(frozen=True)
class OctavesSettings:
    """How to encode with model `octaves`; the attributes are those of `EncodeOptions`, and one target is not None."""

    quality: float | None = None
    psnr_db: float | None = None
    ratio: float | None = None
    size_bytes: int | None = None
    effort: str = "default"
    self_contained: bool = False
    tune: str = TUNES[0]


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode. What is None is the model's default; what is not of the model must be None.

    Attributes:
        model: `octaves`, or one of those that are fitted by descent (`fields.models`), such as `cinr`.
        quality: of octaves, 1 to 100: a fixed quantiser step, no search. 60 where no target is given.
        psnr_db: PSNR of RGB over the whole slide, in dB, met within 0.1 dB; of 16 bits the peak is 65535.
        ratio: uncompressed bytes (one a pixel and channel, of 16 bits two) over the file's, met within 2 %.
        size_bytes: of the file, met within 2 %.
        effort: of octaves, `fast`, `default` or `best`.
        self_contained: of octaves, hold all networks in the file, so that it needs no prior of the package. Files of
            which they are less than 1 % do so anyway.
        tune: of octaves, what the bits are spent for, `balanced`, `psnr` or `ms-ssim`: with the last, more of them go
            where the slide is smooth, and to luma; with the first, half as far. balanced by default.
        bpp: of fitted models, bits of the tiles that are not blank, a pixel of these, met within 2 %: without header,
            index and what all tiles share. 4 by default, or less where the tiles do not need as much.
        passes: of fitted models, over every tile's pixels; time grows with it. By default what the model says: 6 of
            tables under one network, 60 of a network a tile.
        tile_px: of fitted models, side of a tile, 64 to 2048. By default what the model says, 512, 256 or 128, or twice
            that and more where the target does not pay for a network a tile.
        weight_bits: of fitted models, 8 or 16, of the networks' weights. 8 by default.
        prior: of fitted models, a codec whose picture each tile holds and the field corrects: `jpeg`, `jpegxl` or
            `jpeg2000`. None by default.
        prior_quality: of the prior, 1 to 100; of jpeg2000 it is a PSNR in dB. 30 by default.
        loss: of fitted models, what the fit makes small: `mse`, squared error; `ms-ssim` or `stain`, that and MS-SSIM
            or the squared error of haematoxylin and eosin; `nuclei`, squared error that counts five times in nuclei;
            `segmentation`, squared error and how far the nuclei of the original are found again; `perceptual`, that and
            the error of a network's features. mse by default. `stain`, `nuclei` and, without a network, `segmentation`
            are of three channels.
        loss_network: of `perceptual`, and of `segmentation` what segments instead of the classical map of nuclei: a
            TorchScript file, as `fit.loss_network` says. It is a program that runs: only of a source that is trusted.
        optimiser: of fitted models, `adam` or `soap`, of the networks; tables have Adam. adam by default.
        seed: of everything random. The same seed, machine and settings give the same file; of fitted models,
            whose sums depend on it, the same number of threads, too.
        device: auto, cpu or cuda.
        keep_associated: names of the source's associated images to store.
        memory_mb: bounds the pixels held at once, beside the libraries themselves.

    Raises:
        UsageError: a value out of its range, two targets, or a setting of other models.
    """

    model: str = "octaves"
    quality: float | None = None
    psnr_db: float | None = None
    ratio: float | None = None
    size_bytes: int | None = None
    effort: str | None = None
    self_contained: bool | None = None
    tune: str | None = None
    bpp: float | None = None
    passes: int | None = None
    tile_px: int | None = None
    weight_bits: int | None = None
    prior: str | None = None
    prior_quality: float | None = None
    loss: str | None = None
    loss_network: str | Path | None = None
    optimiser: str | None = None
    seed: int = 0
    device: str = "auto"
    keep_associated: tuple[str, ...] = ()
    memory_mb: int = 1024

    def __post_init__(self) -> None:
        models = known_models()
        wants = (
            ("model", lambda v: v in models, f"one of {', '.join(models)}"),
            ("quality", lambda v: 1 <= v <= 100, "from 1 to 100"),
            ("psnr_db", lambda v: 10 <= v <= 70, "from 10 to 70 dB"),
            ("ratio", lambda v: 1 <= v <= 1e6, "from 1 to 1,000,000"),
            ("size_bytes", lambda v: 1 <= v <= 2**50, "at least 1 byte"),
            ("effort", lambda v: v in EFFORTS, f"one of {', '.join(EFFORTS)}"),
            ("tune", lambda v: v in TUNES, f"one of {', '.join(TUNES)}"),
            ("bpp", lambda v: LEAST_BPP <= v <= MOST_BPP, "from 0.02 to 24 bits a pixel"),
            ("passes", lambda v: 1 <= v <= 10000, "from 1 to 10000"),
            ("tile_px", lambda v: 64 <= v <= 2048, "from 64 to 2048"),
            ("weight_bits", lambda v: v in (8, 16), "8 or 16"),
            ("prior", lambda v: v in KINDS, f"one of {', '.join(KINDS)}"),
            ("loss", lambda v: v in LOSSES, f"one of {', '.join(LOSSES)}"),
            ("optimiser", lambda v: v in OPTIMISERS, f"one of {', '.join(OPTIMISERS)}"),
            ("prior_quality", lambda v: 1 <= v <= 100, "from 1 to 100"),
            ("seed", lambda v: 0 <= v < 2**32, "from 0 to 2^32 - 1"),
            ("memory_mb", lambda v: v >= 256, "at least 256"),
        )
        for name, ok, want in wants:
            value = getattr(self, name)
            if value is not None and not ok(value):
                raise UsageError(f"{flag(name)} is {value}; it should be {want}")
        fitted = self.model != "octaves"
        for name in OF_OCTAVES if fitted else OF_FIELDS:
            if getattr(self, name) is not None:
                whose, other = ("model octaves", "octaves") if fitted else ("models that are fitted", "cinr")
                raise UsageError(
                    f"{flag(name)} is a setting of {whose}, and the model is {self.model}; leave it out, or give "
                    f"--model {other}"
                )
        if self.prior_quality is not None and self.prior is None:
            raise UsageError(f"--prior-quality is {self.prior_quality:g}, and there is no --prior; give one too")
        if self.loss == "perceptual" and self.loss_network is None:
            raise UsageError("--loss perceptual is by a network's features, and there is no --loss-network; give one")
        if self.loss_network is not None and self.loss not in OF_NETWORKS:
            raise UsageError(
                f"--loss-network is {self.loss_network}, and --loss is {self.loss or 'mse'}; it should be one of "
                f"{', '.join(OF_NETWORKS)}"
            )
        given = [flag(name) for name in (*TARGETS, "bpp") if getattr(self, name) is not None]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} are given; give one of them")

    @property
    def octaves(self) -> OctavesSettings:
        """The settings of model `octaves`, resolved."""
        quality = self.quality
        if all(getattr(self, name) is None for name in TARGETS):
            quality = DEFAULT_QUALITY
        return OctavesSettings(
            quality=quality,
            psnr_db=self.psnr_db,
            ratio=self.ratio,
            size_bytes=self.size_bytes,
            effort=self.effort or "default",
            self_contained=bool(self.self_contained),
            tune=self.tune or TUNES[0],
        )

    def field(self, *, tile_px: int, passes: int) -> FieldSettings:
        """The settings of a model that is fitted, resolved with what it says where nobody does."""
        names = dict.fromkeys((*OF_FIELDS, *FIELD_TARGETS))
        given = {name: v for name in names if (v := getattr(self, name)) is not None}
        return FieldSettings(**{"tile_px": tile_px, "passes": passes, **given})


def flag(name: str) -> str:
    """The command line's name of an option."""
    return "--" + {"psnr_db": "psnr", "size_bytes": "size"}.get(name, name).replace("_", "-")


@dataclass(frozen=True)
class EncodeReport:
    """What became of it. Sizes in bytes are `os.stat` of the files.

    `psnr_db` is of RGB over the whole slide, of what the file decodes to, and infinite where nothing is lost; `step` is
    the quantiser's at octave 0, in units of 1 / 1024 grey level, and None for models that are fitted.
    """

    path: str
    source_bytes: int
    cinr_bytes: int
    slide_px: int
    tissue_px: int
    blank_chunks: int
    coded_chunks: int
    seconds: float
    psnr_db: float | None = None
    step: int | None = None

    @property
    def bpp(self) -> float:
        """Bits a pixel of the whole slide."""
        return 8 * self.cinr_bytes / self.slide_px

    @property
    def tissue_bpp(self) -> float:
        """Bits a pixel of tissue: the whole file over the pixels that the tissue map counts."""
        return 8 * self.cinr_bytes / max(1, self.tissue_px)


def check_encodable(source: SlideSource, out: Path, options: EncodeOptions, *, overwrite: bool) -> None:
    """Raise `UsageError`, before anything slow, where `source` cannot be encoded to `out`."""
    if out.suffix != ".cinr":
        raise UsageError(f"{out}: the output should end in .cinr")
    if out.is_dir():
        raise UsageError(f"{out}: is a folder; give a file name")
    if out.exists() and not overwrite:
        raise UsageError(f"{out}: exists already; use --overwrite to replace it")
    if not out.parent.is_dir():
        raise UsageError(f"{out}: the folder {out.parent} does not exist; make it first")
    if not os.access(out.parent, os.W_OK):
        raise UsageError(f"{out}: the folder {out.parent} is not writable; choose another")
    channels = f"{source.channels} channel{'' if source.channels == 1 else 's'} of {source.bit_depth} bits"
    if source.bit_depth != 8 or source.channels not in (1, 3):
        if options.model == "octaves":
            raise UsageError(
                f"{source.name}: has {channels}; model octaves encodes 1 or 3 channels of 8 bits, and the models that "
                "are fitted up to 16 of 8 or 16 bits, so give one of these, such as --model siren"
            )
        if options.prior is not None:
            raise UsageError(f"{source.name}: has {channels}; --prior is of 1 or 3 of 8 bits, so leave it out")
    of_colour = options.loss in ("stain", "nuclei", "segmentation") and options.loss_network is None
    if of_colour and (source.channels != 3 or source.bit_depth != 8):
        raise UsageError(
            f"{source.name}: has {channels}; --loss {options.loss} is of colour, 3 of 8 bits, so leave it out"
        )
    if options.loss_network is not None and not Path(options.loss_network).is_file():
        raise UsageError(f"--loss-network {options.loss_network}: there is no such file; give a TorchScript file")
    for name in options.keep_associated:
        if name not in source.associated:
            there = ", ".join(source.associated) or "none"
            raise UsageError(f"{source.name}: has no associated image {name!r} to keep; there are: {there}")


def check_model(container: Container) -> None:
    """Raise `UnsupportedVersion` where this build has no decoder for the file's model."""
    name = container.header.model["name"]
    if name not in known_models():
        known = ", ".join(known_models())
        raise UnsupportedVersion(f"{container.path}: its model is {name!r}; this build decodes {known}")
