"""Mattes: which pixels of a photo are the object. `choose` picks a method; the others each know one.

`classical` reads the background from the frame's edge and needs no weights, `u2netp` runs a small
segmentation network on the CPU, `birefnet` a large one that has to be fetched, `rembg_models` uses whatever
the `rembg` package can run, and `edges` turns masks into an alpha channel with edges as sharp as the photo's.
"""
