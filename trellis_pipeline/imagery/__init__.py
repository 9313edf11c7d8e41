"""Photos: fetched safely, decoded defensively, cut out, cropped the way TRELLIS.2 expects, and triaged.

`fetch` and `fetch_web` alone touch a disk or a network; everything else is bytes and arrays in, bytes and
arrays out. `make_crop` strings the steps together for a worker process.
"""
