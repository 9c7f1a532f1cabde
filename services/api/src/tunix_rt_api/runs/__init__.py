"""HTTP endpoints: runs."""
