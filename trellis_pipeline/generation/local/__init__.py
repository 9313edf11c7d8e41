"""The local generator: TRELLIS.2 on this machine's device, from a request to GLB bytes."""
