"""The method of the paper, on tensors: three priors, the composer that fuses two of them, and the loop.

It imports torch and nothing else. The order to read it in: `regions`, `structure` (GSP), `attention` (RAP),
`semantics` (RSP), `composer` and its counterpart for joint attention, `joint`, `guidance`, `sampler`.
"""
