"""Makes the demo catalog: procedural products, their ground-truth models and path-traced photos.

`python -m catalogs.demo.make` from the root of the repository writes everything; see `__main__`.
"""
