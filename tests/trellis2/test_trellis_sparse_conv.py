"""A sparse convolution is a dense one, seen at the voxels that exist only."""

import pytest

torch = pytest.importorskip("torch", reason="TRELLIS.2 needs PyTorch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from trellis_pipeline.errors import GenerationError  # noqa: E402
from trellis_pipeline.trellis2.blocks import Children, ConvNeXtBlock, MergeBlock, SubdivideBlock  # noqa: E402
from trellis_pipeline.trellis2.sparse_conv import SparseConv3d  # noqa: E402
from trellis_pipeline.trellis2.voxels import (  # noqa: E402
    MAX_EDGE,
    Grid,
    VoxelIndex,
    distinct,
    pack,
    unpack,
)


def some_voxels(seed: int, edge: int = 6, samples: int = 2, share: float = 0.3) -> torch.Tensor:
    """(N, 4) int32 in a random order within each sample, at least one voxel in each."""
    generator = torch.Generator().manual_seed(seed)
    exists = torch.rand(samples, edge, edge, edge, generator=generator) < share
    exists[:, 0, 0, 0] = True
    coords = exists.nonzero().int()
    order = torch.randperm(len(coords), generator=generator)
    coords = coords[order]
    return coords[coords[:, 0].argsort(stable=True)]


def dense_result(conv: SparseConv3d, feats: torch.Tensor, coords: torch.Tensor) -> torch.Tensor:
    sample, x, y, z = coords.long().unbind(1)
    edge = int(coords[:, 1:].max()) + 1
    cube = feats.new_zeros(int(sample.max()) + 1, feats.shape[1], edge, edge, edge)
    cube[sample, :, x, y, z] = feats
    out = torch.nn.functional.conv3d(cube, conv.weight.permute(0, 4, 1, 2, 3), conv.bias, padding=1)
    return out[sample, :, x, y, z]


@torch.inference_mode()
@given(
    seed=st.integers(0, 10_000),
    share=st.floats(0, 1),
    c_in=st.integers(1, 5),
    c_out=st.integers(1, 5),
    chunk_rows=st.integers(1, 600),
)
@settings(max_examples=30, deadline=None)
def test_equals_a_dense_convolution_however_it_is_cut(seed, share, c_in, c_out, chunk_rows):
    coords = some_voxels(seed, share=share)
    torch.manual_seed(seed)
    feats = torch.randn(len(coords), c_in)
    conv = SparseConv3d(c_in, c_out)
    torch.nn.init.normal_(conv.bias)
    ours = conv(feats, Grid(coords, chunk_rows))
    torch.testing.assert_close(ours, dense_result(conv, feats, coords), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_half_precision_is_summed_in_float32():
    coords = some_voxels(1, share=1.0, samples=1)
    conv = SparseConv3d(64, 8)
    feats = torch.rand(len(coords), 64) + 1  # all of one sign: rounding after each of 27 terms would show
    exact = conv(feats.half().float(), Grid(coords))
    halved = SparseConv3d(64, 8, torch.float16)
    halved.load_state_dict(conv.state_dict())
    conv.load_state_dict({name: values.float() for name, values in halved.state_dict().items()})
    exact = conv(feats.half().float(), Grid(coords))
    ours = halved(feats.half(), Grid(coords))
    assert ours.dtype == torch.float16
    torch.testing.assert_close(ours, exact.half(), rtol=2**-10, atol=2**-12)


@given(seed=st.integers(0, 10_000), share=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_finds_exactly_the_neighbours_that_are_there(seed, share):
    coords = some_voxels(seed, edge=4, share=share)
    rows = {tuple(voxel): row for row, voxel in enumerate(coords.tolist())}
    expected = [
        [
            rows.get((s, x + dx, y + dy, z + dz), -1)
            for dx in (-1, 0, 1)
            for dy in (-1, 0, 1)
            for dz in (-1, 0, 1)
        ]
        for s, x, y, z in coords.tolist()
    ]
    assert VoxelIndex(coords).neighbours(coords).tolist() == expected


def test_voxels_at_both_ends_of_the_grid_are_not_neighbours():
    last = MAX_EDGE - 1
    coords = torch.tensor([[0, 0, 0, 0], [0, 0, 0, last], [0, 0, 1, 0], [0, last, last, last], [1, 0, 0, 0]])
    table = VoxelIndex(coords).neighbours(coords)
    assert (table >= 0).sum(1).tolist() == [2, 1, 2, 1, 1]


@torch.inference_mode()
def test_a_grid_that_keeps_no_pairs_finds_them_every_time():
    coords = some_voxels(8)
    feats, conv = torch.randn(len(coords), 4), SparseConv3d(4, 4)
    kept, searched = Grid(coords, 10), Grid(coords, 10, keep_pairs=False)
    for _ in range(2):
        assert torch.equal(conv(feats, kept), conv(feats, searched))
    assert kept.pairs is kept.pairs
    assert searched.pairs is not searched.pairs


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_distinct_voxels_are_sorted_like_rows(seed):
    coords = torch.randint(0, 5, (60, 4), generator=torch.Generator().manual_seed(seed)).int()
    assert torch.equal(distinct(coords), coords.unique(dim=0))
    assert torch.equal(unpack(pack(coords)), coords)


@torch.inference_mode()
def test_samples_of_a_batch_do_not_touch():
    coords = some_voxels(3)
    block = ConvNeXtBlock(4, torch.float32)
    feats = torch.randn(len(coords), 4)
    both = block(feats, Grid(coords))
    for sample in (0, 1):
        mine = coords[:, 0] == sample
        torch.testing.assert_close(block(feats[mine], Grid(coords[mine])), both[mine], rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_subdivision_puts_children_where_they_were_asked_for_and_merging_finds_the_parents():
    coords = some_voxels(4)
    grid = Grid(coords, chunk_rows=7)
    exists = torch.rand(len(coords), 8, generator=torch.Generator().manual_seed(4)) < 0.4
    exists[0, 5] = True
    children = Children(grid, exists)
    expected = [
        [s, 2 * x + (k & 1), 2 * y + (k >> 1 & 1), 2 * z + (k >> 2 & 1)]
        for (s, x, y, z), row in zip(coords.tolist(), exists.tolist(), strict=True)
        for k in range(8)
        if row[k]
    ]
    assert children.grid.coords.tolist() == expected
    block = SubdivideBlock(16, 4, torch.float32, predicts=False)
    feats = block(torch.randn(len(coords), 16), grid, children)
    assert feats.shape == (len(expected), 4)
    _, parents = MergeBlock(4, 16)(feats, children.grid)
    with_children = coords[exists.any(1)].tolist()
    assert parents.coords.tolist() == sorted(with_children)


@torch.inference_mode()
def test_subdivision_does_not_depend_on_the_chunks():
    coords = some_voxels(5)
    exists = torch.rand(len(coords), 8) < 0.5
    block = SubdivideBlock(16, 4, torch.float32, predicts=False)
    feats = torch.randn(len(coords), 16)
    results = []
    for rows in (1, 13, 10_000):
        grid = Grid(coords, rows)
        results.append(block(feats, grid, Children(grid, exists)))
    torch.testing.assert_close(results[0], results[2], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(results[1], results[2], rtol=1e-5, atol=1e-6)


def test_a_subdivision_without_children_or_with_too_many_says_so():
    grid = Grid(some_voxels(6))
    with pytest.raises(GenerationError, match="left no voxel"):
        Children(grid, torch.zeros(len(grid), 8, dtype=torch.bool))
    with pytest.raises(GenerationError, match="the limit is 100"):
        Children(grid, torch.ones(len(grid), 8, dtype=torch.bool), limit=100)
