"""A checkpoint in the published layout, small enough to be made in a moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MAIN, OLDER, ENCODER = "microsoft/TRELLIS.2-4B", "microsoft/TRELLIS-image-large", "facebook/dinov3-tiny"

FLOW = {
    "model_channels": 32,
    "cond_channels": 24,
    "num_blocks": 2,
    "num_heads": 2,
    "mlp_ratio": 4.0,
    "pe_mode": "rope",
    "share_mod": True,
    "initialization": "scaled",
    "qk_rms_norm": True,
    "qk_rms_norm_cross": True,
    "dtype": "bfloat16",
}
DECODER = {
    "model_channels": [16, 16, 8, 8, 8],
    "latent_channels": 4,
    "num_blocks": [1, 1, 1, 0, 0],
    "block_type": ["SparseConvNeXtBlock3d"] * 5,
    "up_block_type": ["SparseResBlockC2S3d"] * 4,
    "block_args": [{"use_checkpoint": False}] * 5,
    "use_fp16": True,
}


def flow(resolution: int, channels_in: int) -> dict:
    return {"resolution": resolution, "in_channels": channels_in, "out_channels": 4, **FLOW}


MODELS = {
    "sparse_structure_flow_model": ("ckpts/ss_flow", "SparseStructureFlowModel", flow(8, 4)),
    "sparse_structure_decoder": (
        f"{OLDER}/ckpts/ss_dec",
        "SparseStructureDecoder",
        {
            "out_channels": 1,
            "latent_channels": 4,
            "num_res_blocks": 1,
            "num_res_blocks_middle": 1,
            "channels": [8, 4, 4, 4],
        },
    ),
    "shape_slat_flow_model_512": ("ckpts/shape_512", "SLatFlowModel", flow(32, 4)),
    "shape_slat_flow_model_1024": ("ckpts/shape_1024", "SLatFlowModel", flow(64, 4)),
    "shape_slat_decoder": ("ckpts/shape_dec", "FlexiDualGridVaeDecoder", {"resolution": 256, **DECODER}),
    "tex_slat_flow_model_512": ("ckpts/tex_512", "SLatFlowModel", flow(32, 8)),
    "tex_slat_flow_model_1024": ("ckpts/tex_1024", "SLatFlowModel", flow(64, 8)),
    "tex_slat_decoder": (
        "ckpts/tex_dec",
        "SparseUnetVaeDecoder",
        {"out_channels": 6, "pred_subdiv": False, **DECODER},
    ),
}
SHEETS_BIAS = -0.79  # about 140 of 32,768 cells
ENCODER_ARGS = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "patch_size": 64,
    "num_register_tokens": 2,
}


def random_weights(
    class_name: str, args: dict, seed: int, *, sheets: bool = False
) -> dict[str, torch.Tensor]:
    """Random, but so that a few coarse voxels exist and each has a few children.

    sheets: each has the half of its children that lie side by side, all with a crossing, so that the shape is
    made of small level sheets.
    """
    import torch

    from trellis_pipeline.trellis2.weights import build_network

    torch.manual_seed(seed)
    state = build_network(class_name, args, torch.float32).state_dict()
    for name, values in state.items():
        if name.endswith("modulation"):
            values.normal_(std=0.2)
        elif name == "out_layer.2.bias":
            values.fill_(-0.6)
        elif name.endswith("to_subdiv.bias"):
            values.copy_(torch.tensor([0.5, -1.0, -1.0, -1.0, -1.0, -1.0, 0.2, -1.0]))
        if sheets and name == "out_layer.2.bias":
            values.fill_(SHEETS_BIAS)
        if sheets and ".to_subdiv." in name:
            children = 1 if name.startswith("blocks.0.") else 4
            kept = torch.tensor([1.0] * children + [-1.0] * (8 - children))
            values.copy_(kept if name.endswith("bias") else 0 * values)
        if sheets and class_name == "FlexiDualGridVaeDecoder" and name.startswith("output_layer."):
            values[3:6] = torch.tensor([-1.0, -1.0, 1.0]) if name.endswith("bias") else 0.0
    return {name: values.clone() for name, values in state.items()}


def write_network(stem: Path, class_name: str, args: dict, seed: int, *, sheets: bool) -> None:
    import torch
    from safetensors.torch import save_file

    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_name(stem.name + ".json").write_text(json.dumps({"name": class_name, "args": args}))
    state = random_weights(class_name, args, seed, sheets=sheets)
    if class_name.endswith("FlowModel"):
        state = {name: values.to(torch.bfloat16) for name, values in state.items()}
    save_file(state, stem.with_name(stem.name + ".safetensors"))


def write_checkpoint(root: Path, *, sheets: bool = False) -> Path:
    """Into an empty folder, which is given back. sheets: see `random_weights`."""
    from safetensors.torch import save_file

    for seed, (path, class_name, args) in enumerate(MODELS.values()):
        stem = root / (path if path.startswith(OLDER) else f"{MAIN}/{path}")
        write_network(stem, class_name, args, seed, sheets=sheets)
    encoder = root / ENCODER
    encoder.mkdir(parents=True)
    encoder.joinpath("config.json").write_text(json.dumps({"model_type": "dinov3_vit", **ENCODER_ARGS}))
    save_file(random_weights("DINOv3ViTModel", ENCODER_ARGS, 99), encoder / "model.safetensors")
    sampling = {
        "steps": 2,
        "guidance_strength": 7.5,
        "guidance_rescale": 0.5,
        "guidance_interval": [0.6, 1.0],
    }
    scale = {"mean": [0.1, 0.2, 0.3, 0.4], "std": [1.5, 0.5, 1.0, 2.0]}
    args = {
        "models": {name: path for name, (path, _, _) in MODELS.items()},
        "sparse_structure_sampler": {"name": "", "args": {}, "params": {**sampling, "rescale_t": 5.0}},
        "shape_slat_sampler": {"name": "", "args": {}, "params": {**sampling, "rescale_t": 3.0}},
        "tex_slat_sampler": {"name": "", "args": {}, "params": {"steps": 2, "guidance_strength": 1.0}},
        "shape_slat_normalization": scale,
        "tex_slat_normalization": scale,
        "image_cond_model": {"name": "DinoV3FeatureExtractor", "args": {"model_name": ENCODER}},
        "default_pipeline_type": "1024_cascade",
    }
    description = {"name": "Trellis2ImageTo3DPipeline", "args": args}
    (root / MAIN / "pipeline.json").write_text(json.dumps(description))
    return root
