"""The engine of simplify.py: edges collapse, cheapest first, and the surface keeps its topology.

`collapse.collapse_edges` is the way in. Around it stand the ring of corners at each vertex (rings), what a
vertex's place costs (quadrics), the lines in which edges wait (price_lines) and what may not happen (rules).
"""
