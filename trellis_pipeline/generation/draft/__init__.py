"""The draft generator: a textured blockout from one photo's outline, on any CPU, for nothing.

`build.build_draft` is the entry point, `model` has its records;
`silhouette`, `shape`, `field`, `surface` and `colour` are its steps.
"""
