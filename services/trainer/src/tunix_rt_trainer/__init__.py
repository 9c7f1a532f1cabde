"""The trainer service: from a pinned dataset and base model to a trained model directory."""
