"""Geometry to a shippable GLB: simplify, unwrap, bake, write, read back and render on CPU."""
