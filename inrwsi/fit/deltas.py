"""What a file holds of its own networks: quantised differences from the prior's."""

from __future__ import annotations

import numpy as np

from inrwsi.fields.octaves_prior import Prior


def apply_deltas(prior: Prior, weights: bytes) -> tuple[dict[str, np.ndarray], ...]:
    """The nets of a file.

    Raises:
        ValueError: not of the spec.
    """
    raise ValueError("no networks of a file's own yet")
