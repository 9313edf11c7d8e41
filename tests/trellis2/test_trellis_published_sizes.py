"""The networks in full size: as many parameters as the published files hold. Nothing is allocated for it."""

import pytest

torch = pytest.importorskip("torch", reason="TRELLIS.2 needs PyTorch")

from trellis_pipeline.trellis2.published import FILES  # noqa: E402
from trellis_pipeline.trellis2.repository import MATERIAL_NORMALIZATION, SHAPE_NORMALIZATION  # noqa: E402
from trellis_pipeline.trellis2.weights import build_network  # noqa: E402

DECODER = {
    "model_channels": [1024, 512, 256, 128, 64],
    "latent_channels": 32,
    "num_blocks": [4, 16, 8, 4, 0],
}
PUBLISHED = {
    "ss_flow_img_dit_1_3B_64_bf16": ("SparseStructureFlowModel", 8, 8, 1_292_179_976),
    "slat_flow_img2shape_dit_1_3B_512_bf16": ("SLatFlowModel", 32, 32, 1_292_253_728),
    "slat_flow_imgshape2tex_dit_1_3B_1024_bf16": ("SLatFlowModel", 64, 32, 1_292_302_880),
    "ss_dec_conv3d_16l8_fp16": ("SparseStructureDecoder", 8, 1, 73_671_201),
    "shape_dec_next_dc_f16c32_fp16": ("FlexiDualGridVaeDecoder", 32, 7, 474_231_463),
    "tex_dec_next_dc_f16c32_fp16": ("SparseUnetVaeDecoder", 32, 6, 474_216_006),
}


@pytest.mark.parametrize("file", PUBLISHED)
def test_the_parameters_fill_the_published_file(file):
    class_name, c_in, c_out, parameters = PUBLISHED[file]
    args = {"resolution": 16, "in_channels": c_in, "out_channels": c_out}
    if class_name == "SparseStructureDecoder":
        blocks = {"num_res_blocks": 2, "num_res_blocks_middle": 2, "channels": [512, 128, 32]}
        args = {"out_channels": c_out, "latent_channels": c_in, **blocks}
    elif "Vae" in class_name:
        args = {"out_channels": c_out, "pred_subdiv": c_out == 7, **DECODER}
    with torch.device("meta"):
        network = build_network(class_name, args, torch.float16 if "fp16" in file else torch.bfloat16)
    assert sum(values.numel() for values in network.parameters()) == parameters
    # Two bytes a parameter and a header; the structure decoder keeps its norms in float32.
    in_file = 2 * parameters if "ss_dec" not in file else network_bytes(network)
    published = next(known for known in FILES if known.path == f"ckpts/{file}.safetensors")
    assert 0 < published.file_bytes - in_file < 100_000


def network_bytes(network: torch.nn.Module) -> int:
    return sum(values.numel() * values.element_size() for values in network.parameters())


def test_latents_have_a_scale_for_every_channel():
    for scale in (SHAPE_NORMALIZATION, MATERIAL_NORMALIZATION):
        assert len(scale.mean) == len(scale.std) == 32
        assert min(scale.std) > 2
    x = torch.randn(5, 32)
    torch.testing.assert_close(SHAPE_NORMALIZATION.apply(SHAPE_NORMALIZATION.undo(x)), x)
