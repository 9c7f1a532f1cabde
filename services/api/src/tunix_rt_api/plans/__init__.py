"""HTTP endpoints: plans."""
