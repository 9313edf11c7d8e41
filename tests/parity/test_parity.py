"""Our networks give what the original modules gave, on their tiny random weights and inputs.

Every file of the directory is a test. What is in it decides how it is checked: class, sizes and tolerance
stand in its config, so new files with other seeds and sizes need no change here. A file of an unknown kind,
or an output that nothing was compared with, fails. Geometry after the networks is in test_geometry_parity.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="TRELLIS.2 needs PyTorch")

from PIL import Image  # noqa: E402

from trellis_pipeline.trellis2 import stages  # noqa: E402
from trellis_pipeline.trellis2.attention import MultiHeadRMSNorm  # noqa: E402
from trellis_pipeline.trellis2.blocks import Children, ConvNeXtBlock, MergeBlock, SubdivideBlock  # noqa: E402
from trellis_pipeline.trellis2.dino import DinoConfig, DinoEncoder, patch_rotation  # noqa: E402
from trellis_pipeline.trellis2.dual_grid import dual_faces, dual_vertices, extract_surface  # noqa: E402
from trellis_pipeline.trellis2.embeddings import (  # noqa: E402
    TimestepEmbedder,
    absolute_position_code,
    rotate_pairs,
    rotation_3d,
    sinusoid,
)
from trellis_pipeline.trellis2.flow import FlowConfig, SLatFlow, SparseStructureFlow  # noqa: E402
from trellis_pipeline.trellis2.latent_decoder import (  # noqa: E402
    LatentDecoder,
    LatentDecoderConfig,
    SurfaceVoxels,
    material_voxels,
    surface_voxels,
)
from trellis_pipeline.trellis2.modes import MODES  # noqa: E402
from trellis_pipeline.trellis2.photo import cut_out, encoder_input  # noqa: E402
from trellis_pipeline.trellis2.pipeline import GenerationSettings, generate_from_condition  # noqa: E402
from trellis_pipeline.trellis2.sampler import (  # noqa: E402
    SamplerSettings,
    euler_steps,
    schedule,
    spread_dense,
    spread_sparse,
)
from trellis_pipeline.trellis2.sparse_conv import SparseConv3d  # noqa: E402
from trellis_pipeline.trellis2.stages import Normalization, sample_latent, sample_structure  # noqa: E402
from trellis_pipeline.trellis2.structure_decoder import (  # noqa: E402
    ResBlock,
    SparseStructureDecoder,
    StructureDecoderConfig,
    Upsample,
    occupied,
)
from trellis_pipeline.trellis2.voxels import Grid, VoxelIndex  # noqa: E402
from trellis_pipeline.trellis2.weights import build_network  # noqa: E402

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Case:
    """One parity file, which knows what of it has been compared."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with np.load(path, allow_pickle=False) as arrays:
            self.arrays = {name: arrays[name] for name in arrays.files}
        self.config: dict[str, Any] = json.loads(str(self.arrays.pop("config")))
        self.args: dict[str, Any] = self.config.get("args", {})
        self.compared: set[str] = set()
        self.worst = 0.0

    def input(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[f"input/{name}"])

    def output(self, name: str) -> np.ndarray:
        self.compared.add(name)
        return self.arrays[f"output/{name}"]

    def outputs(self) -> list[str]:
        return [name.removeprefix("output/") for name in self.arrays if name.startswith("output/")]

    def state(self, prefix: str = "") -> dict[str, torch.Tensor]:
        start = f"state/{prefix}"
        mine = {name: values for name, values in self.arrays.items() if name.startswith(start)}
        return {name.removeprefix(start): torch.from_numpy(values) for name, values in mine.items()}

    def load(self, module: torch.nn.Module, prefix: str = "") -> torch.nn.Module:
        module.load_state_dict(self.state(prefix), strict=True)
        return module.eval()

    def close(self, name: str, ours: torch.Tensor | np.ndarray) -> None:
        """Within tolerance x max(1, largest reference value), shape included."""
        ours, theirs = np.asarray(ours), self.output(name)
        assert ours.shape == theirs.shape, f"{name}: shape {ours.shape}, the original has {theirs.shape}"
        if theirs.size == 0:
            return
        error = np.abs(ours.astype(np.complex128) - theirs.astype(np.complex128)).max()
        error /= max(1.0, np.abs(theirs).max())
        self.worst = max(self.worst, float(error))
        assert error <= self.config["tolerance"], f"{name}: error {error:.2e}"

    def equal(self, name: str, ours: torch.Tensor | np.ndarray) -> None:
        np.testing.assert_array_equal(np.asarray(ours), self.output(name), err_msg=name)


def check_ape(case: Case) -> None:
    case.close("emb", absolute_position_code(case.input("coords"), case.args["channels"]))


def check_timestep(case: Case) -> None:
    embedder = TimestepEmbedder(case.args["hidden_size"], case.args["frequency_embedding_size"])
    t = case.input("t")
    case.close("out", case.load(embedder)(t))
    for name in case.outputs():
        if match := re.fullmatch(r"sinusoid_(\d+)", name):
            case.close(name, sinusoid(t, int(match[1])))


def check_rope(case: Case) -> None:
    coords = case.input("coords")[:, 1:]
    for name in case.outputs():
        if match := re.fullmatch(r"rot_(hd(\d+))", name):
            rotation = rotation_3d(coords, int(match[2]), base=case.args["rope_freq"][1])
            case.close(f"phases_{match[1]}", torch.complex(rotation.cos, rotation.sin))
            case.close(name, rotate_pairs(case.input(f"x_{match[1]}"), rotation))


def check_rms_norm(case: Case) -> None:
    case.close("y", case.load(MultiHeadRMSNorm(case.args["dim"], case.args["heads"]))(case.input("x")))


def check_structure_flow(case: Case) -> None:
    flow = case.load(SparseStructureFlow(FlowConfig.from_args(case.args), DTYPES[case.args["dtype"]]))
    case.close("y", flow(case.input("x"), case.input("t"), case.input("cond")))


def check_slat_flow(case: Case) -> None:
    flow = case.load(SLatFlow(FlowConfig.from_args(case.args), DTYPES[case.args["dtype"]]))
    feats, coords, t, cond = (case.input(name) for name in ("feats", "coords", "t", "cond"))
    if "input/concat_cond_feats" in case.arrays:
        feats = torch.cat([feats, case.input("concat_cond_feats")], dim=1)
    case.close("feats", flow(feats, coords, t, cond))
    if "output/feats_ragged_cond" in case.arrays:
        lengths = case.input("ragged_cond_lens").tolist()
        ragged = [sample[:length] for sample, length in zip(cond, lengths, strict=True)]
        case.close("feats_ragged_cond", flow(feats, coords, t, ragged))


def check_structure_decoder(case: Case) -> None:
    dtype = torch.float16 if case.args.get("use_fp16") else torch.float32
    decoder = case.load(SparseStructureDecoder(StructureDecoderConfig.from_args(case.args), dtype))
    logits = decoder(case.input("z"))
    case.close("logits", logits)
    edge = logits.shape[-1]
    # Voxels are compared on the original's logits: one that is almost zero may fall on either side.
    case.equal("coords", occupied(torch.from_numpy(case.output("logits")), edge))
    case.equal("coords_pool2", occupied(torch.from_numpy(case.output("logits")), edge // 2))


def check_dense_blocks(case: Case) -> None:
    x = case.input("x")
    c_out, c_in = case.state("res.")["conv1.weight"].shape[:2]
    case.close("res", case.load(ResBlock(c_in, c_out, torch.float32), "res.")(x))
    wide, c_in = case.state("up.")["conv.weight"].shape[:2]
    case.close("up", case.load(Upsample(c_in, wide // 8, torch.float32), "up.")(x))


def check_sparse_conv(case: Case) -> None:
    coords = case.input("coords")
    case.equal("neighbor_map", VoxelIndex(coords).neighbours(coords))
    c_out, _, _, _, c_in = case.state()["weight"].shape
    case.close("feats", case.load(SparseConv3d(c_in, c_out))(case.input("feats"), Grid(coords)))


def check_convnext(case: Case) -> None:
    block = case.load(ConvNeXtBlock(case.args["channels"], torch.float32, case.args["mlp_ratio"]))
    case.close("feats", block(case.input("feats"), Grid(case.input("coords"))))


def check_subdivide(case: Case) -> None:
    channels, c_out = case.args["channels"], case.args["out_channels"]
    block = case.load(SubdivideBlock(channels, c_out, torch.float32, predicts=case.args["pred_subdiv"]))
    feats, grid = case.input("feats"), Grid(case.input("coords"))
    logits = block.subdivision(feats)
    case.close("subdiv_logits", logits)
    children = Children(grid, logits > 0)
    case.equal("coords", children.grid.coords)
    case.close("feats", block(feats, grid, children))


def check_merge(case: Case) -> None:
    block = case.load(MergeBlock(case.args["channels"], case.args["out_channels"]))
    feats, grid = block(case.input("feats"), Grid(case.input("coords")))
    case.equal("coords", grid.coords)
    case.close("feats", feats)


def latent_decoder(case: Case, predicts: bool) -> LatentDecoder:
    dtype = torch.float16 if case.args.get("use_fp16") else torch.float32
    config = LatentDecoderConfig.from_args({**case.args, "pred_subdiv": predicts})
    return case.load(LatentDecoder(config, dtype))


def check_shape_decoder(case: Case) -> None:
    decoder = latent_decoder(case, predicts=True)
    latent, grid = case.input("feats"), Grid(case.input("coords"))
    trace_levels(case, decoder, latent, grid)
    decoded = decoder(latent, grid)
    case.equal("raw_coords", decoded.coords)
    case.close("raw_feats", decoded.feats)
    for level, exists in enumerate(decoded.subdivisions):
        case.equal(f"upsample_coords_{level + 1}", decoder.upsample(latent, grid, level + 1))
        np.testing.assert_array_equal(exists, case.output(f"subs_logits_{level}") > 0)
    voxels = surface_voxels(decoded.feats, decoder.config.voxel_margin)
    for sample in range(int(grid.coords[:, 0].max()) + 1):
        mine = decoded.coords[:, 0] == sample
        part = SurfaceVoxels(voxels.vertex[mine], voxels.crossed[mine], voxels.weight[mine])
        vertices, faces = extract_surface(decoded.coords[mine, 1:], part, case.args["resolution"])
        case.close(f"mesh{sample}_vertices", vertices)
        case.equal(f"mesh{sample}_faces", faces)


def trace_levels(case: Case, decoder: LatentDecoder, latent: torch.Tensor, grid: Grid) -> None:
    """Features and logits of every level, so that a difference shows where it begins."""
    h = decoder.from_latent(latent).to(decoder.dtype)
    for level, blocks in enumerate(decoder.blocks):
        for number, block in enumerate(blocks):
            if isinstance(block, ConvNeXtBlock):
                h = block(h, grid)
            else:
                logits = block.subdivision(h)
                case.equal(f"subs_coords_{level}", grid.coords)
                case.close(f"subs_logits_{level}", logits)
                children = Children(grid, logits > 0)
                h, grid = block(h, grid, children), children.grid
                case.equal(f"trace_coords_{level + 1}", grid.coords)
                case.close(f"trace_h_{level + 1}", h)
            if f"output/trace_h_block_{level}_{number}" in case.arrays:
                case.close(f"trace_h_block_{level}_{number}", h)


def check_material_decoder(case: Case) -> None:
    decoder = latent_decoder(case, predicts=case.args["pred_subdiv"])
    levels = len(decoder.blocks) - 1
    guide = [case.input(f"subs_logits_{level}") > 0 for level in range(levels)]
    decoded = decoder(case.input("feats"), Grid(case.input("coords")), guide)
    case.equal("coords", decoded.coords)
    case.close("raw_feats", decoded.feats)
    case.close("pbr", material_voxels(decoded.feats))


def check_dual_grid(case: Case) -> None:
    coords, vertex = case.input("coords"), case.input("dual_vertices")
    crossed, weight = case.input("intersected"), case.input("split_weight")[:, 0]
    even, uneven = case.args, case.config["aniso"]
    for name, how, split in (("split", even, weight), ("nosplit", even, None), ("aniso", uneven, weight)):
        lower, upper = torch.tensor(how["aabb"], dtype=torch.float32)
        cells = torch.tensor(how["grid_size"], dtype=torch.float32).expand(3)
        case.close(f"vertices_{name}", dual_vertices(coords, vertex, lower, upper, cells))
        case.equal(f"faces_{name}", dual_faces(coords, crossed, split))


def check_sampler(case: Case) -> None:
    matrix, bias = case.state()["A"], case.state()["b"]
    cond, no_cond = case.input("cond"), case.input("neg_cond")
    sparse = "input/noise_feats" in case.arrays
    noise = case.input("noise_feats" if sparse else "noise")
    lengths = torch.bincount(case.input("coords")[:, 0]).tolist() if sparse else [1] * len(noise)
    calls: list[list[Any]] = []

    def velocity(x: torch.Tensor, t: float, c: torch.Tensor) -> torch.Tensor:
        # The reference counts a call for each sample of the batch.
        calls.append([float(np.float32(t)), bool(c.abs().sum() > 0)])
        push = bias * torch.sin(torch.tensor(t, dtype=torch.float32) / 200) + c.mean(1)
        if sparse:
            return torch.tanh(x @ matrix.T + torch.repeat_interleave(push, torch.tensor(lengths), dim=0))
        wave = torch.einsum("oc,bcxyz->boxyz", matrix, x)
        return torch.tanh(wave + push[:, :, None, None, None])

    for name, settings in case.config["configs"].items():
        calls.clear()
        how = sampler_settings(settings)
        spread = spread_sparse(lengths) if sparse else spread_dense
        steps = list(euler_steps(velocity, noise, cond, no_cond, how, spread))
        case.close(f"{name}/samples", steps[-1].x)
        case.close(f"{name}/pred_x_t", torch.stack([step.x for step in steps]))
        case.close(f"{name}/pred_x_0", torch.stack([step.x0 for step in steps]))
        if f"output/{name}/t_seq" in case.arrays:
            case.equal(f"{name}/t_seq", schedule(how.steps, how.rescale_t))
        expected = case.config["calls"][name]
        assert calls == expected[: len(calls)], f"{name}: the flow is asked at other times"
        assert len(expected) % len(calls) == 0


def check_dino(case: Case) -> None:
    config = DinoConfig.from_args(case.args)
    encoder = case.load(DinoEncoder(config))
    square = Image.fromarray(case.arrays["input/image"])
    for name in case.outputs():
        if match := re.fullmatch(r"features_(\d+)", name):
            size = int(match[1])
            pixels = encoder_input(square, size)
            case.close(f"pixel_values_{size}", pixels)
            head_dim = config.hidden_size // config.num_attention_heads
            patches = size // config.patch_size
            cos, sin = patch_rotation(patches, patches, head_dim, config.rope_theta)
            case.close(f"cos_{size}", cos)
            case.close(f"sin_{size}", sin)
            case.close(name, encoder(pixels))


def check_photo(case: Case) -> None:
    case.equal("small_rgb", np.asarray(cut_out(Image.fromarray(case.arrays["input/small_rgba"]))))
    # The large image is given as a formula in the file's note.
    y, x = np.mgrid[0:1100, 0:1300]
    inside = (x - 600) ** 2 / 1.4 + (y - 520) ** 2 < 330**2
    channels = ((x // 5) % 256, (y // 4) % 256, ((x + y) // 7) % 256, 255 * inside)
    big = np.asarray(cut_out(Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))))
    case.equal("big_shape", np.array(big.shape))
    case.equal("big_rgb_sub16", big[::16, ::16])
    digest = hashlib.sha256(np.ascontiguousarray(big).tobytes()).digest()
    case.equal("big_rgb_sha", np.frombuffer(digest, np.uint8))


class FileNetworks:
    """The tiny networks of a pipeline file, whose weights stand in another file beside it."""

    def __init__(self, case: Case) -> None:
        models = case if case.state() else weights_beside(case)
        self.device = torch.device("cpu")
        self.networks = {
            name: models.load(build_network(how["class"], how["args"], torch.float32), f"{name}/")
            for name, how in case.config["models"].items()
        }
        if "pipeline_type" in case.config:
            self.shape_normalization = Normalization(**case.config["shape_slat_normalization"])
            self.material_normalization = Normalization(**case.config["tex_slat_normalization"])

    def use(self, name: str) -> contextlib.nullcontext:
        return contextlib.nullcontext(self.networks[name])


def weights_beside(case: Case) -> Case:
    for path in sorted(case.path.parent.glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            config = json.loads(str(arrays["config"]))
        if "class" not in config and config.get("models") == case.config["models"]:
            return Case(path)
    raise AssertionError(f"{case.path.name}: no file beside it has its networks' weights")


def check_pipeline_models(case: Case) -> None:
    """Every network can be built from its description and takes exactly these weights."""
    networks = FileNetworks(case).networks
    taken = sum(len(network.state_dict()) for network in networks.values())
    assert taken == len(case.state()), "weights that belong to no network"


def sampler_settings(values: dict[str, Any]) -> SamplerSettings:
    return SamplerSettings(**{**values, "guidance_interval": tuple(values["guidance_interval"])})


class TeacherForcing:
    """Every stage runs as always and is compared; the next one goes on from what the original had there.

    Thresholds would otherwise amplify what rounding adds up over the stages.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.stage = 0

    def sample_structure(self, flow, noise, *rest) -> torch.Tensor:
        return self.compared(noise, sample_structure(flow, noise, *rest))

    def sample_latent(self, flow, coords, noise, *rest) -> torch.Tensor:
        self.case.equal(f"stage{self.stage}_coords", coords)
        return self.compared(noise, sample_latent(flow, coords, noise, *rest))

    def compared(self, noise: torch.Tensor, ours: torch.Tensor) -> torch.Tensor:
        self.case.equal(f"stage{self.stage}_noise", noise)
        self.case.close(f"stage{self.stage}_out", ours)
        theirs = torch.from_numpy(self.case.output(f"stage{self.stage}_out"))
        self.stage += 1
        return theirs


def check_pipeline(case: Case) -> None:
    """From the condition on, with noise that must be the original's to the bit."""
    networks, forcing = FileNetworks(case), TeacherForcing(case)
    samplers = {name: sampler_settings(values) for name, values in case.config["sampler_params"].items()}
    how = GenerationSettings(samplers["ss"], samplers["shape"], samplers["tex"])
    how = replace(how, max_tokens=case.config["run_kwargs"].get("max_num_tokens", how.max_tokens))
    decoded: dict[str, tuple[Any, ...]] = {}
    for name in ("shape_slat_decoder", "tex_slat_decoder"):
        networks.networks[name].register_forward_pre_hook(
            lambda _module, args, name=name: decoded.update({name: args})
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "sample_structure", forcing.sample_structure)
        patch.setattr(stages, "sample_latent", forcing.sample_latent)
        model = generate_from_condition(
            networks,
            case.input("cond_512"),
            case.input("cond_1024" if MODES[case.config["pipeline_type"]].photo_px == 1024 else "cond_512"),
            mode=case.config["pipeline_type"],
            seed=case.config["seed"],
            settings=how,
        )
    case.equal("resolution", np.array(model.resolution))
    case.close("shape_slat", decoded["shape_slat_decoder"][0])
    case.equal("slat_coords", decoded["shape_slat_decoder"][1].coords)
    case.close("tex_slat", decoded["tex_slat_decoder"][0])
    if "output/mesh_vertices" in case.arrays:
        case.equal("voxel_coords", model.coords)
        case.close("mesh_vertices", model.vertices)
        case.equal("mesh_faces", model.triangles)
        case.close("voxel_attrs", model.attributes)


CHECKS: dict[str, Callable[[Case], None]] = {
    "AbsolutePositionEmbedder": check_ape,
    "DinoV3FeatureExtractor.extract_features": check_dino,
    "FlexiDualGridVaeDecoder": check_shape_decoder,
    "FlowEulerGuidanceIntervalSampler": check_sampler,
    "MultiHeadRMSNorm": check_rms_norm,
    "ResBlock3d": check_dense_blocks,
    "RotaryPositionEmbedder": check_rope,
    "SLatFlowModel": check_slat_flow,
    "SparseConv3d": check_sparse_conv,
    "SparseConvNeXtBlock3d": check_convnext,
    "SparseResBlockC2S3d": check_subdivide,
    "SparseResBlockS2C3d": check_merge,
    "SparseStructureDecoder": check_structure_decoder,
    "SparseStructureFlowModel": check_structure_flow,
    "SparseUnetVaeDecoder": check_material_decoder,
    "TimestepEmbedder": check_timestep,
    "Trellis2ImageTo3DPipeline.preprocess_image": check_photo,
    "Trellis2ImageTo3DPipeline.run": check_pipeline,
    "flexible_dual_grid_to_mesh": check_dual_grid,
    "models": check_pipeline_models,
}

# Geometry after the networks, which needs no PyTorch: test_geometry_parity.py.
CHECKED_ELSEWHERE = {"cuBVH.unsigned_distance", "cumesh.remeshing.remesh_narrow_band_dc", "flex_gemm"}


def kind_of(case: Case) -> str:
    """The class without arguments and remarks."""
    if "class" not in case.config and "models" in case.config:
        return "models"
    match = re.match(r"[\w.]+", case.config.get("class", ""))
    return match[0] if match else ""


@torch.inference_mode()
def test_the_original_modules_and_ours_agree(parity_file, report):
    torch.set_num_threads(1)
    case = Case(parity_file)
    kind = kind_of(case)
    if kind in CHECKED_ELSEWHERE:
        pytest.skip("geometry: checked in test_geometry_parity.py")
    assert kind in CHECKS, f"{parity_file.name}: no check for {case.config.get('class')!r}"
    CHECKS[kind](case)
    missed = set(case.outputs()) - case.compared
    assert not missed, f"{parity_file.name}: nothing was compared with {sorted(missed)}"
    report(
        parity_file.stem, f"{kind:44} error {case.worst:.1e}, allowed {case.config.get('tolerance', 0):.0e}"
    )
