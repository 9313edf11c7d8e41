"""What attention must not depend on: where the origin is, the order of voxels, the neighbours in a batch."""

import pytest

torch = pytest.importorskip("torch", reason="TRELLIS.2 needs PyTorch")

from trellis_pipeline.errors import ConfigError  # noqa: E402
from trellis_pipeline.trellis2 import flow as flow_module  # noqa: E402
from trellis_pipeline.trellis2.attention import SelfAttention, attend  # noqa: E402
from trellis_pipeline.trellis2.embeddings import (  # noqa: E402
    grid_coords,
    rotate_pairs,
    rotation_3d,
)
from trellis_pipeline.trellis2.flow import (  # noqa: E402
    FeedForward,
    FlowConfig,
    SLatFlow,
    SparseStructureFlow,
)
from trellis_pipeline.trellis2.stages import without_photo  # noqa: E402

CONFIG = FlowConfig(4, 6, 6, model_channels=48, cond_channels=20, num_blocks=2, num_heads=2, mlp_ratio=2.0)


def lively(network: torch.nn.Module) -> torch.nn.Module:
    """Modulations start at zero, which would hide most of the network."""
    torch.manual_seed(0)
    for name, values in network.state_dict().items():
        if name.endswith("modulation"):
            values.normal_(std=0.3)
    return network.eval()


def voxels(count: int) -> torch.Tensor:
    coords = torch.randint(0, 30, (count * 2, 3), generator=torch.Generator().manual_seed(count))
    return torch.nn.functional.pad(coords.unique(dim=0)[:count].int(), (1, 0))


def test_turning_keeps_lengths_and_only_differences_of_position_matter():
    q, k = torch.randn(5, 2, 24), torch.randn(5, 2, 24)
    here, there = torch.randint(0, 40, (5, 3)), torch.randint(0, 40, (5, 3))

    def products(shift: int) -> torch.Tensor:
        turned_q = rotate_pairs(q, rotation_3d(here + shift, 24))
        turned_k = rotate_pairs(k, rotation_3d(there + shift, 24))
        torch.testing.assert_close(turned_q.norm(dim=-1), q.norm(dim=-1))
        return (turned_q * turned_k).sum(-1)

    torch.testing.assert_close(products(0), products(17), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(products(0), (q * k).sum(-1), atol=0.1)


@torch.inference_mode()
def test_attention_does_not_see_where_the_origin_is():
    attention = SelfAttention(48, 2, qk_norm=True, dtype=torch.float32)
    x, coords = torch.randn(1, 9, 48), voxels(9)[:, 1:]
    at_origin = attention(x, rotation_3d(coords, 24))
    torch.testing.assert_close(attention(x, rotation_3d(coords + 11, 24)), at_origin, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(attention(x, rotation_3d(2 * coords, 24)), at_origin, atol=1e-4)


@torch.inference_mode()
def test_the_order_of_voxels_does_not_matter():
    flow = lively(SLatFlow(CONFIG))
    coords, feats = voxels(20), torch.randn(20, 6)
    cond, t = torch.randn(1, 7, 20), torch.tensor([700.0])
    order = torch.randperm(20)
    expected = flow(feats, coords, t, cond)[order]
    torch.testing.assert_close(flow(feats[order], coords[order], t, cond), expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_every_sample_of_a_batch_gets_what_it_gets_alone():
    flow = lively(SLatFlow(CONFIG))
    first, second = voxels(12), voxels(5)
    second[:, 0] = 1
    coords, feats = torch.cat([first, second]), torch.randn(17, 6)
    cond, t = torch.randn(2, 7, 20), torch.tensor([900.0, 100.0])
    both = flow(feats, coords, t, cond)
    alone = flow(feats[12:], second * torch.tensor([0, 1, 1, 1]), t[1:], cond[1:])
    torch.testing.assert_close(both[12:], alone)
    dense = lively(SparseStructureFlow(CONFIG))
    cube = torch.randn(2, 6, 4, 4, 4)
    torch.testing.assert_close(
        dense(cube, t, cond)[1:], dense(cube[1:], t[1:], cond[1:]), rtol=1e-4, atol=1e-5
    )


@torch.inference_mode()
def test_the_dense_flow_is_the_sparse_one_on_a_full_cube():
    dense = lively(SparseStructureFlow(CONFIG))
    sparse = SLatFlow(CONFIG)
    sparse.load_state_dict(dense.state_dict())
    cube, cond, t = torch.randn(1, 6, 4, 4, 4), torch.randn(1, 3, 20), torch.tensor([500.0])
    coords = torch.nn.functional.pad(grid_coords(4), (1, 0))
    tokens = cube[0].permute(1, 2, 3, 0).reshape(64, 6)
    expected = sparse(tokens, coords, t, cond)
    ours = dense(cube, t, cond)[0].permute(1, 2, 3, 0).reshape(64, 6)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_one_empty_token_stands_for_a_whole_missing_photo():
    flow = lively(SLatFlow(CONFIG))
    coords, feats, t = voxels(15), torch.randn(15, 6), torch.tensor([800.0])
    photo = torch.randn(1, 301, 20)
    assert without_photo(photo).shape == (1, 1, 20)
    ours, theirs = (flow(feats, coords, t, cond) for cond in (without_photo(photo), torch.zeros_like(photo)))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(ours, flow(feats, coords, t, photo), atol=1e-3)


@torch.inference_mode()
def test_bfloat16_keeps_the_scales_in_float32_and_stays_close():
    exact = lively(SLatFlow(CONFIG))
    rough = SLatFlow(CONFIG, torch.bfloat16)
    rough.load_state_dict(exact.state_dict())
    kept = {name for name, values in rough.state_dict().items() if values.dtype == torch.float32}
    assert {"input_layer.weight", "blocks.0.modulation", "blocks.1.norm2.bias", "out_layer.bias"} <= kept
    assert rough.state_dict()["blocks.0.mlp.mlp.0.weight"].dtype == torch.bfloat16
    inputs = torch.randn(15, 6), voxels(15), torch.tensor([800.0]), torch.randn(1, 4, 20)
    ours, theirs = rough(*inputs), exact(*inputs)
    assert ours.dtype == torch.float32
    assert (ours - theirs).abs().max() < 0.05 * theirs.abs().max()


def test_a_flow_in_float16_is_refused():
    with pytest.raises(ConfigError, match="float16 loses details"):
        SLatFlow(CONFIG, torch.float16)


def test_a_network_built_in_another_way_is_refused():
    args = {"resolution": 4, "in_channels": 6, "out_channels": 6}
    assert FlowConfig.from_args({**args, "initialization": "scaled", "use_checkpoint": True}).num_blocks == 30
    with pytest.raises(ConfigError, match="share_mod"):
        FlowConfig.from_args({**args, "share_mod": False})
    with pytest.raises(ConfigError, match="'learned'"):
        FlowConfig.from_args({**args, "pe_mode": "learned"})


@torch.inference_mode()
@pytest.mark.parametrize("most_logits", [1, 60, 4 * 2 * 7, 10**9])
def test_attention_over_some_queries_at_a_time_is_the_same(most_logits):
    torch.manual_seed(1)
    q, k, v = torch.randn(2, 9, 4, 6), torch.randn(2, 7, 4, 6), torch.randn(2, 7, 4, 6)
    torch.testing.assert_close(attend(q, k, v, most_logits), attend(q, k, v), rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_an_mlp_over_some_tokens_at_a_time_is_the_same(monkeypatch):
    torch.manual_seed(1)
    layer, x = FeedForward(8, 32, torch.float32), torch.randn(2, 11, 8)
    whole = layer(x)
    monkeypatch.setattr(flow_module, "_MLP_ROWS", 4)
    torch.testing.assert_close(layer(x), whole, rtol=1e-5, atol=1e-6)
