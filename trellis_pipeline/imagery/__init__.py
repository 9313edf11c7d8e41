"""Photos: fetched safely, decoded defensively, cut out, cropped the way TRELLIS.2 expects, and triaged.

`fetch` is the only module here that touches a network or a disk; everything else is bytes and arrays in,
bytes and arrays out. `make_crop` strings the steps together for a worker process.
"""
