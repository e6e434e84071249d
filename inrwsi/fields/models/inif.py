"""Model `inif`: SIREN with cosines whose frequencies are learnt (Implicit Neural Image Field, arXiv 2405.19012).

Each channel of each cosine layer has a frequency of its own, which starts at omega and is fitted with the weights. The
file holds no more for it: it goes into the multiplier of the channel.
"""

from __future__ import annotations

from dataclasses import dataclass

from inrwsi.fields.activations import COSINE
from inrwsi.fields.models.siren import SirenConfig
from inrwsi.fields.networks import Layers, sine_layers


@dataclass(frozen=True, kw_only=True)
class InifConfig(SirenConfig):
    """As `SirenConfig`; `omega` is where the frequencies start."""

    name: str = "inif"

    def layers(self) -> Layers:
        return sine_layers(
            self.encoding.outputs,
            self.width,
            self.hidden,
            self.channels,
            self.omega,
            activation=COSINE,
            learns_omega=True,
        )


CONFIG = InifConfig
