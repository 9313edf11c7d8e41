"""Quality of a finished GLB: what the file says, what its geometry is, and whether a target would take it."""
