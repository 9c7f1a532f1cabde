"""HTTP endpoints: evaluations."""
