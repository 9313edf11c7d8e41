"""Weights on this machine: what is there, what is missing, and how it gets here.

`published` (in `trellis2`) says what a file must be; `look` compares what lies in the weights folder with it;
`sources` and `plan` decide where each missing file comes from; `hub` speaks with the hub, `transfer` brings
bytes over a line that may break, and `fetch` puts files in place. Nothing here needs torch.
"""
