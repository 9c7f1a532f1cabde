"""google-tunix as an engine: the same batches, rates and weights as ours, trained by its PeftTrainer.

It lives in an environment of its own, with its own releases of JAX and Flax, so it is a process: `peer.py` runs there
and imports nothing of ours, `process.py` speaks with it, `fit.py` makes it a way to train a run.
"""
