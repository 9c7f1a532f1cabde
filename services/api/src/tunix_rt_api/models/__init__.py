"""HTTP endpoints: models."""
