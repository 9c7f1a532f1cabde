"""HTTP endpoints: imports of runs that were trained without a platform."""
