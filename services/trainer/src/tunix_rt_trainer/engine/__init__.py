"""The training engine: arrays, specs and local directories in; arrays, numbers and checkpoint directories out.

    examples -> batches -> step (losses, optim) over a state -> loop -> checkpoints

Nothing here knows a database, a queue or an artifact store.
"""
