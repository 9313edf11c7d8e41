"""TRELLIS.2 inference on plain PyTorch: a photo in, a mesh and its material voxels out.

No CUDA extension and no compiler: what the networks need (attention, submanifold convolution, dual-grid
surfaces) is written with ordinary tensor operations, so it runs wherever PyTorch does. Read in this order:

    embeddings, attention, flow    the diffusion transformer, three of which do the generating
    sampler                        how a flow turns noise into a latent
    voxels, sparse_conv, blocks    what the sparse decoders are made of
    structure_decoder              latent -> which voxels exist
    latent_decoder                 structured latent -> fine voxels with shape or material
    dual_grid                      fine voxels -> triangles
    photo, dino                    photo -> condition tokens
    stages, pipeline               the order of it all
    weights, repository, resident  files on disk -> networks, and which of them are in memory when
"""
