"""The paid generator: TRELLIS.2 at Runware, or at any server that speaks the same API.

`generator.RunwareGenerator` is what the line uses, `client.RunwareClient` the API below it, `options` what
both are told. The rest is one subject a module: `reply`, `failures`, `results`, `view` and `polling` are
pure and say what an answer means; `transport`, `limiter`, `batches`, `download` and `uploads` move bytes.
"""
