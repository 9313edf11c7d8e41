"""From a photo to a surface with material, in the order that the model was trained for.

    photo --dino--> condition
    noise --structure flow--> cube --decoder--> which coarse voxels exist
    noise --shape flow--> latent [--upsample, shape flow again at a finer grid (cascade)]
    latent --shape decoder--> fine voxels with surface
    noise --material flow, beside the shape--> latent --material decoder--> the same voxels with material

All noise of one generation comes from one generator on the CPU, drawn in this order, so a seed means the same
on every device. What may still differ is a voxel here and there: each decoder ends in thresholds, and
devices round differently.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from trellis_pipeline.errors import ConfigError, GenerationError
from trellis_pipeline.trellis2 import stages
from trellis_pipeline.trellis2.dual_grid import extract_surface
from trellis_pipeline.trellis2.exact import exact_sums
from trellis_pipeline.trellis2.latent_decoder import material_voxels, surface_voxels
from trellis_pipeline.trellis2.modes import MODES, Mode
from trellis_pipeline.trellis2.photo import Matting, cut_out, encoder_input
from trellis_pipeline.trellis2.sampler import Noise, SamplerSettings
from trellis_pipeline.trellis2.stages import Normalization
from trellis_pipeline.trellis2.voxel_model import VoxelModel
from trellis_pipeline.trellis2.voxels import Grid

Watch = Callable[[str, int, int], None]
"""Called with (stage, steps done, steps in all). Whatever it raises stops the generation there."""


STRUCTURE_SAMPLING = SamplerSettings(guidance_strength=7.5, guidance_rescale=0.7, rescale_t=5.0)
SHAPE_SAMPLING = SamplerSettings(guidance_strength=7.5, guidance_rescale=0.5, rescale_t=3.0)
MATERIAL_SAMPLING = SamplerSettings(
    guidance_strength=1.0, guidance_rescale=0.0, guidance_interval=(0.6, 0.9), rescale_t=3.0
)


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How to sample, and where to stop. The defaults are the published ones.

    max_tokens: voxels that a flow may have to attend over; 1536 gives way down to 1024 before it is passed.
    most_tokens, max_voxels: guards against a shape that explodes, which end the generation: voxels that a
    flow attends over in any mode, and fine voxels on one level.
    """

    structure: SamplerSettings = STRUCTURE_SAMPLING
    shape: SamplerSettings = SHAPE_SAMPLING
    material: SamplerSettings = MATERIAL_SAMPLING
    max_tokens: int = 49_152
    most_tokens: int = 98_304
    max_voxels: int = 32_000_000


class Networks(Protocol):
    """Whoever holds the weights. The names are those of pipeline.json, and `image_encoder`."""

    device: torch.device
    shape_normalization: Normalization
    material_normalization: Normalization

    def use(self, name: str) -> AbstractContextManager[Any]:
        """The network on `device`, ready for inference; afterwards it may be put away."""

    def shrink(self) -> bool:
        """Take less memory from now on. False if that is not possible."""


def generate(
    networks: Networks,
    photo: Image.Image,
    *,
    mode: str = "1024_cascade",
    seed: int = 42,
    settings: GenerationSettings | None = None,
    matting: Matting | None = None,
    watch: Watch = lambda _stage, _done, _of: None,
    retry_smaller: bool = False,
) -> VoxelModel:
    """Make one model of the object in a photo. For several results call again with other seeds.

    photo: with its background removed, or with any background if `matting` is given.
    Raises MatteError if there is no object, and as `generate_from_square`.
    """
    _check_mode(mode)
    return generate_from_square(
        networks, cut_out(photo, matting),
        mode=mode, seed=seed, settings=settings, watch=watch, retry_smaller=retry_smaller,
    )  # fmt: skip


@torch.inference_mode()
def generate_from_square(
    networks: Networks,
    square: Image.Image,
    *,
    mode: str,
    seed: int,
    settings: GenerationSettings | None = None,
    watch: Watch = lambda _stage, _done, _of: None,
    retry_smaller: bool = False,
) -> VoxelModel:
    """As `generate`, from the cut out object on: it is seen as it is, and not cropped once more.

    square: RGB, the object on black, as `photo.cut_out` makes it. retry_smaller: where the memory does not
    suffice, start once more with a smaller memory plan if there is one.
    Raises ConfigError for an unknown mode, and GenerationError where the model fails or the memory is too
    small.
    """
    _check_mode(mode)

    def attempt() -> VoxelModel | None:
        try:
            cond_512, cond = encode_photo(networks, square, MODES[mode].photo_px)
            return generate_from_condition(
                networks, cond_512, cond, mode=mode, seed=seed, settings=settings, watch=watch
            )
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            return None  # and let go of the error, whose traceback holds every tensor

    with exact_sums(networks.device):
        model = attempt()
        if model is None and retry_smaller and networks.shrink():
            model = attempt()
    if model is None:
        raise GenerationError(
            f"not enough memory on {networks.device} for mode {mode}: use a smaller memory plan or resolution"
        )
    return model


def encode_photo(networks: Networks, square: Image.Image, photo_px: int) -> tuple[Tensor, Tensor]:
    """Condition tokens of a photo at 512 pixels and at `photo_px`, (1, tokens, channels) float32 each.

    Raises GenerationError where they are not finite.
    """
    with networks.use("image_encoder") as encoder:
        sizes = (512,) if photo_px == 512 else (512, photo_px)
        tokens = [encoder(encoder_input(square, px).to(networks.device)) for px in sizes]
    if not all(bool(each.isfinite().all()) for each in tokens):
        raise stages.not_finite("what the image encoder says of the photo")
    return tokens[0], tokens[-1]


@torch.inference_mode()
def generate_from_condition(
    networks: Networks,
    cond_512: Tensor,
    cond: Tensor,
    *,
    mode: str,
    seed: int,
    settings: GenerationSettings | None = None,
    watch: Watch = lambda _stage, _done, _of: None,
) -> VoxelModel:
    """As `generate`, from the condition tokens on."""
    way, how = MODES[mode], settings or GenerationSettings()
    noise = Noise.from_seed(seed, networks.device)

    coords = make_structure(networks, cond_512, way, how, noise, watch)
    shape, coords, resolution = make_shape(networks, coords, cond_512, cond, way, how, noise, watch)
    material = make_material(networks, shape, coords, cond, way, how, noise, watch)

    watch("shape decoder", 0, 1)
    vertices, triangles, fine, subdivisions = decode_shape(networks, shape, coords, resolution, how)
    watch("shape decoder", 1, 1)
    watch("material decoder", 0, 1)
    with networks.use("tex_slat_decoder") as decoder:
        painted = decoder(material, Grid(coords), subdivisions, max_voxels=how.max_voxels)
    watch("material decoder", 1, 1)
    return VoxelModel(
        vertices=vertices,
        triangles=triangles,
        coords=fine,
        attributes=material_voxels(painted.feats).cpu().numpy(),
        resolution=resolution,
        seed=seed,
    )


def decode_shape(
    networks: Networks, shape: Tensor, coords: Tensor, resolution: int, how: GenerationSettings
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.int32], tuple[Tensor, ...]]:
    """Vertices, triangles and fine coords as in VoxelModel, and the subdivisions that led there.

    Only the last stay on the device, so that the material decoder has the room.
    """
    with networks.use("shape_slat_decoder") as decoder:
        surface = decoder(shape, Grid(coords), max_voxels=how.max_voxels)
        voxels = surface_voxels(surface.feats, decoder.config.voxel_margin)
    fine = surface.coords[:, 1:]
    vertices, triangles = extract_surface(fine, voxels, resolution)
    return vertices.cpu().numpy(), triangles.cpu().numpy(), fine.cpu().numpy(), surface.subdivisions


def make_structure(
    networks: Networks, cond: Tensor, way: Mode, how: GenerationSettings, noise: Noise, watch: Watch
) -> Tensor:
    """Where the object is: (N, 4) int32 on the mode's coarse grid."""
    with networks.use("sparse_structure_flow_model") as flow:
        start = noise.draw(1, flow.config.in_channels, *3 * [flow.config.resolution])
        cube = stages.sample_structure(flow, start, cond, how.structure, _named(watch, "sparse structure"))
    with networks.use("sparse_structure_decoder") as decoder:
        return stages.decode_structure(decoder, cube, way.structure_edge)


def make_shape(
    networks: Networks,
    coords: Tensor,
    cond_512: Tensor,
    cond: Tensor,
    way: Mode,
    how: GenerationSettings,
    noise: Noise,
    watch: Watch,
) -> tuple[Tensor, Tensor, int]:
    """The shape latent (N, C) on the decoder's scale, its coords (N, 4) int32, and the resolution reached."""
    normal = networks.shape_normalization
    first_cond = cond_512 if way.refining_flow else cond
    _check_tokens(coords, how)
    with networks.use(way.shape_flow) as flow:
        start = noise.draw(len(coords), flow.config.in_channels)
        named = _named(watch, "shape")
        latent = stages.sample_latent(flow, coords, start, first_cond, how.shape, named, "shape")
    latent = normal.undo(latent)
    if way.refining_flow is None:
        return latent, coords, way.resolution
    with networks.use("shape_slat_decoder") as decoder:
        coords, resolution = stages.refine_coords(
            decoder, latent, coords, way.resolution, how.max_tokens, how.max_voxels
        )
    _check_tokens(coords, how)
    with networks.use(way.refining_flow) as flow:
        start = noise.draw(len(coords), flow.config.in_channels)
        named = _named(watch, "fine shape")
        latent = stages.sample_latent(flow, coords, start, cond, how.shape, named, "fine shape")
    return normal.undo(latent), coords, resolution


def make_material(
    networks: Networks,
    shape: Tensor,
    coords: Tensor,
    cond: Tensor,
    way: Mode,
    how: GenerationSettings,
    noise: Noise,
    watch: Watch,
) -> Tensor:
    """The material latent (N, C) on the decoder's scale, for a shape latent on the decoder's scale."""
    beside = networks.shape_normalization.apply(shape)
    with networks.use(way.material_flow) as flow:
        start = noise.draw(len(coords), flow.config.in_channels - beside.shape[1])
        named = _named(watch, "material")
        latent = stages.sample_latent(flow, coords, start, cond, how.material, named, "material", beside)
    return networks.material_normalization.undo(latent)


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise ConfigError(f"unknown mode {mode!r}; known are {', '.join(MODES)}")


def _check_tokens(coords: Tensor, how: GenerationSettings) -> None:
    """Raise GenerationError where there are more voxels than a flow can sensibly attend over."""
    if len(coords) > how.most_tokens:
        raise GenerationError(
            f"the shape has {len(coords):,} coarse voxels; the limit is {how.most_tokens:,}. "
            "Use a lower resolution or another seed"
        )


def _is_out_of_memory(error: Exception) -> bool:
    """CUDA and Python have exceptions of their own; other devices and libraries say so in words."""
    words = str(error).lower()
    signs = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or any(sign in words for sign in signs)


def _named(watch: Watch, stage: str) -> stages.Watch:
    return lambda done, of: watch(stage, done, of)
