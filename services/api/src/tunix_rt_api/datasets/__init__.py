"""HTTP endpoints: datasets."""
