"""From a generator's voxels to a model a shop can show: repair, remesh, simplify, unwrap, bake.

`pipeline.postprocess` is the whole way; each step stands in a module of its own and takes plain arrays.
"""
