"""Which matte to use, and how far to trust it.

A photo's own alpha channel is the best matte there is. Without one, two independent opinions are asked:
the network knows what objects look like but sees 320 pixels; the background's colour is exact to the pixel
but takes a shadow for the object. `fuse` adds them up, and how well they agree is reported for triage.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trellis_pipeline.errors import ConfigError, MatteError
from trellis_pipeline.imagery.crop import SOLID_ALPHA
from trellis_pipeline.imagery.decode import DecodedImage

METHODS = ("auto", "alpha", "u2netp", "classical", "birefnet")
# An alpha that hides less than this outlines rounded corners or a stray pixel, not an object.
MIN_HIDDEN_SHARE = 0.005


@dataclass(frozen=True, slots=True)
class Matte:
    """Which pixels are object.

    alpha: (H, W) uint8. method: what made it, e.g. "alpha", "u2netp+classical". agreement: IoU in 0..1 of
    what the network and the background's colour say, None where only one was asked. notes: for the record.
    """

    alpha: NDArray[np.uint8]
    method: str
    agreement: float | None = None
    notes: tuple[str, ...] = ()


def make_matte(image: DecodedImage, method: str = "auto", *, weights: Path | None = None) -> Matte:
    """Cut the object out of a photo, preferably at most 1024 px on a side.

    method: "auto" takes the photo's alpha if it has a useful one, else u2netp and the classical matte
    together, else (without the extra `matte`) the classical matte alone. "alpha", "u2netp", "classical",
    "birefnet" and "rembg:<model>" insist on one. weights: folder with BiRefNet, see `birefnet`.
    Raises ConfigError for an unknown or uninstalled method (WeightsMissing and WeightsInvalid are such),
    MatteError where "alpha" finds none or the photo is entirely transparent.
    """
    from trellis_pipeline.imagery.matte import u2netp
    from trellis_pipeline.imagery.matte.rembg_models import PREFIX

    if method not in METHODS and not (method.startswith(PREFIX) and len(method) > len(PREFIX)):
        raise ConfigError(
            f"unknown matte method {method!r} (imagery.matte): "
            f"use one of {', '.join(METHODS)} or {PREFIX}<model>"
        )
    own = image.rgba[..., 3]
    if image.has_alpha and not own.any():
        raise MatteError("the photo is fully transparent; export it with its object visible")
    if method == "alpha" and not image.has_alpha:
        raise MatteError('the photo has no transparency; use imagery.matte = "auto" to cut it out')
    if method == "alpha" or (method == "auto" and _is_useful(image)):
        return Matte(own.copy(), "alpha")

    rgb = _opaque(image)
    if method == "auto":
        if u2netp.is_installed():
            return _two_opinions(rgb)
        note = f"u2netp is not installed: classical matte only, shadows may remain ({u2netp.INSTALL})"
        return Matte(_classical(rgb), "classical", notes=(note,))
    return Matte(_alone(rgb, method, weights), method)


def _is_useful(image: DecodedImage) -> bool:
    return image.has_alpha and float((image.rgba[..., 3] <= SOLID_ALPHA).mean()) >= MIN_HIDDEN_SHARE


def _opaque(image: DecodedImage) -> NDArray[np.uint8]:
    """The colours that a viewer sees on white: hidden pixels may hold anything."""
    if not image.has_alpha:
        return np.ascontiguousarray(image.rgba[..., :3])
    alpha = image.rgba[..., 3:].astype(np.uint16)
    mixed = (image.rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return mixed.astype(np.uint8)


def _to_alpha(share: NDArray[np.float32]) -> NDArray[np.uint8]:
    alpha: NDArray[np.uint8] = np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
    return alpha


def _classical(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from trellis_pipeline.imagery.matte import classical, edges

    lab = classical.to_lab(rgb)
    return _to_alpha(edges.refine_edges(lab, classical.read_background(lab), classical.object_mask(rgb)))


def _alone(rgb: NDArray[np.uint8], method: str, weights: Path | None) -> NDArray[np.uint8]:
    from trellis_pipeline.imagery.matte import birefnet, rembg_models, u2netp

    if method == "classical":
        return _classical(rgb)
    if method == "u2netp":
        return _to_alpha(u2netp.object_probability(rgb))
    if method == "birefnet":
        if weights is None:
            raise ConfigError('imagery.matte = "birefnet" needs the folder of its weights (local.weights)')
        return _to_alpha(birefnet.object_probability(rgb, birefnet.network_path(weights)))
    model = method.removeprefix(rembg_models.PREFIX)
    return _to_alpha(rembg_models.object_probability(rgb, model))


def _two_opinions(rgb: NDArray[np.uint8]) -> Matte:
    from trellis_pipeline.imagery.matte import classical, edges, fuse, u2netp

    probability = u2netp.object_probability(rgb)
    lab = classical.to_lab(rgb)
    background = classical.read_background(lab)
    shadow = fuse.shadow_likeness(lab, background, probability)
    mask = fuse.fuse(background, shadow, probability)
    alpha = _to_alpha(edges.refine_edges(lab, background, mask))
    return Matte(alpha, "u2netp+classical", fuse.agreement(background, shadow, probability))
