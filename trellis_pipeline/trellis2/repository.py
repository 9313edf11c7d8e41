"""The published checkpoint as it lies on disk.

`pipeline.json` names the networks, how to sample and how latents are scaled. Each network is a pair of files,
`<path>.json` with its class and arguments and `<path>.safetensors`. One of them, the structure decoder, lives
in another repository, so a folder of repositories (`owner/name/...`) is what a machine has:

    weights/microsoft/TRELLIS.2-4B/pipeline.json
    weights/microsoft/TRELLIS.2-4B/ckpts/...
    weights/microsoft/TRELLIS-image-large/ckpts/...
    weights/facebook/dinov3-vitl16-pretrain-lvd1689m/model.safetensors
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trellis_pipeline.errors import ConfigError, WeightsInvalid, WeightsMissing
from trellis_pipeline.trellis2.memory import NETWORKS
from trellis_pipeline.trellis2.modes import MODES
from trellis_pipeline.trellis2.pipeline import GenerationSettings
from trellis_pipeline.trellis2.published import ENCODER_REPOSITORY, MAIN_REPOSITORY
from trellis_pipeline.trellis2.sampler import SamplerSettings
from trellis_pipeline.trellis2.stages import Normalization

# pipeline.json says how latents are scaled; these are its published values.
SHAPE_NORMALIZATION = Normalization(
    mean=(
        *(0.781296, 0.018091, -0.495192, -0.558457, 1.060530, 0.093252, 1.518149, -0.933218),
        *(-0.732996, 2.604095, -0.118341, -2.143904, 0.495076, -2.179512, -2.130751, -0.996944),
        *(0.261421, -2.217463, 1.260067, -0.150213, 3.790713, 1.481266, -1.046058, -1.523667),
        *(-0.059621, 2.220780, 1.621212, 0.877230, 0.567247, -3.175944, -3.186688, 1.578665),
    ),
    std=(
        *(5.972266, 4.706852, 5.445010, 5.209927, 5.320220, 4.547237, 5.020802, 5.444004),
        *(5.226681, 5.683095, 4.831436, 5.286469, 5.652043, 5.367606, 5.525084, 4.730578),
        *(4.805265, 5.124013, 5.530808, 5.619001, 5.103930, 5.417670, 5.269677, 5.547194),
        *(5.634698, 5.235274, 6.110351, 5.511298, 6.237273, 4.879207, 5.347008, 5.405691),
    ),
)
MATERIAL_NORMALIZATION = Normalization(
    mean=(
        *(3.501659, 2.212398, 2.226094, 0.251093, -0.026248, -0.687364, 0.439898, -0.928075),
        *(0.029398, -0.339596, -0.869527, 1.038479, -0.972385, 0.126042, -1.129303, 0.455149),
        *(-1.209521, 2.069067, 0.544735, 2.569128, -0.323407, 2.293000, -1.925608, -1.217717),
        *(1.213905, 0.971588, -0.023631, 0.106750, 2.021786, 0.250524, -0.662387, -0.768862),
    ),
    std=(
        *(2.665652, 2.743913, 2.765121, 2.595319, 3.037293, 2.291316, 2.144656, 2.911822),
        *(2.969419, 2.501689, 2.154811, 3.163343, 2.621215, 2.381943, 3.186697, 3.021588),
        *(2.295916, 3.234985, 3.233086, 2.260140, 2.874801, 2.810596, 3.292720, 2.674999),
        *(2.680878, 2.372054, 2.451546, 2.353556, 2.995195, 2.379849, 2.786195, 2.775190),
    ),
)


@dataclass(frozen=True, slots=True)
class NetworkFiles:
    """One network on disk. args: as in its JSON file."""

    class_name: str
    args: Mapping[str, Any]
    weights: Path


@dataclass(frozen=True, slots=True)
class Repository:
    """A checkpoint that has been looked through, but not loaded.

    networks: by their names in pipeline.json, and `image_encoder`. default_mode: a key of modes.MODES.
    absent: where the weights of some of them would be, which were not there when it was looked through; some
    mode works without them.
    """

    networks: Mapping[str, NetworkFiles]
    settings: GenerationSettings
    shape_normalization: Normalization
    material_normalization: Normalization
    default_mode: str
    absent: Mapping[str, Path] = field(default_factory=dict)

    def require(self, mode: str) -> None:
        """Raise WeightsMissing where a mode (a key of modes.MODES) runs a network that is still absent."""
        for name in flows_of(mode):
            if name in self.absent and not self.absent[name].is_file():
                raise WeightsMissing(
                    f"{self.absent[name]} does not exist, and mode {mode} needs it; run "
                    f"`trellis-pipeline weights fetch --only-mode {MODES[mode].resolution}`"
                )


def flows_of(mode: str) -> tuple[str, ...]:
    """The flows that this mode runs and another does not. Raises ConfigError for an unknown mode."""
    if mode not in MODES:
        raise ConfigError(f"unknown mode {mode!r}; known are {', '.join(MODES)}")
    way = MODES[mode]
    return tuple(name for name in (way.shape_flow, way.refining_flow, way.material_flow) if name)


def open_repository(
    weights: Path, *, repository: str = MAIN_REPOSITORY, image_encoder: Path | None = None
) -> Repository:
    """Find a checkpoint's files below the folder `weights`.

    image_encoder: folder with the encoder's config.json and model.safetensors; by default the repository that
    pipeline.json names, below `weights`.
    Raises WeightsMissing if a file is not there, WeightsInvalid if a JSON file cannot be understood or one of
    the published networks is not named. Flows that only some modes run may lack their weights, as long as one
    mode has all of its own.
    """
    root = weights / repository
    description = _read_json(root / "pipeline.json")
    try:
        args = description["args"]
        found = {name: _find(weights, root, path) for name, path in args["models"].items()}
        found["image_encoder"] = _encoder(image_encoder or weights / _encoder_name(args))
        if unnamed := [name for name in NETWORKS if name not in found]:
            raise WeightsInvalid(f"{root / 'pipeline.json'} names no {unnamed[0]}: fetch it again")
        absent = _absent(found)
        return Repository(
            networks=found,
            settings=GenerationSettings(
                structure=_sampler(args, "sparse_structure_sampler", GenerationSettings().structure),
                shape=_sampler(args, "shape_slat_sampler", GenerationSettings().shape),
                material=_sampler(args, "tex_slat_sampler", GenerationSettings().material),
            ),
            shape_normalization=_normalization(args, "shape_slat_normalization", SHAPE_NORMALIZATION),
            material_normalization=_normalization(args, "tex_slat_normalization", MATERIAL_NORMALIZATION),
            default_mode=args.get("default_pipeline_type", "1024_cascade"),
            absent=absent,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsInvalid(f"{root / 'pipeline.json'} is not a TRELLIS.2 description: {error!r}") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise WeightsMissing(f"{path} does not exist; run `trellis-pipeline weights fetch`") from error
    except OSError as error:
        raise WeightsInvalid(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise WeightsInvalid(f"{path} is not JSON: {error}") from error


def _find(weights: Path, root: Path, path: str) -> NetworkFiles:
    """A path is inside the checkpoint's own repository, or begins with another repository's name."""
    stem = next((base / path for base in (root, weights) if (base / f"{path}.json").is_file()), None)
    if stem is None:
        raise WeightsMissing(f"{root / path}.json does not exist; run `trellis-pipeline weights fetch`")
    file = stem.with_name(stem.name + ".json")
    description = _read_json(file)
    match description:
        case {"name": str(class_name), "args": dict(args)}:
            return NetworkFiles(class_name, args, stem.with_name(stem.name + ".safetensors"))
    raise WeightsInvalid(f"{file} does not describe a network by its name and args: fetch it again")


def _encoder(folder: Path) -> NetworkFiles:
    """The image encoder, which its publisher describes in another way."""
    config = _read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise WeightsInvalid(f"{folder / 'config.json'} does not describe a network: fetch it again")
    return NetworkFiles("DINOv3ViTModel", config, folder / "model.safetensors")


def _absent(found: Mapping[str, NetworkFiles]) -> dict[str, Path]:
    """Networks without weights. Raises WeightsMissing where no mode is left that could work."""
    absent = {name: files.weights for name, files in found.items() if not files.weights.is_file()}
    own = {mode: flows_of(mode) for mode in MODES}
    shared = [name for name in absent if not any(name in names for names in own.values())]
    if shared or (absent and all(any(name in absent for name in names) for names in own.values())):
        first = absent[shared[0] if shared else next(iter(absent))]
        raise WeightsMissing(f"{first} does not exist; run `trellis-pipeline weights fetch`")
    return absent


def _encoder_name(args: Mapping[str, Any]) -> str:
    name: str = args.get("image_cond_model", {}).get("args", {}).get("model_name", ENCODER_REPOSITORY)
    return name


def _sampler(args: Mapping[str, Any], name: str, default: SamplerSettings) -> SamplerSettings:
    params = dict(args.get(name, {}).get("params", {}))
    if "guidance_interval" in params:
        params["guidance_interval"] = tuple(params["guidance_interval"])
    return replace(default, **params)


def _normalization(args: Mapping[str, Any], name: str, default: Normalization) -> Normalization:
    if name not in args:
        return default
    return Normalization(mean=tuple(args[name]["mean"]), std=tuple(args[name]["std"]))
