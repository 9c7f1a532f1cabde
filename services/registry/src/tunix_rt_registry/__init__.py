"""The registry service: everything versioned. Builds datasets, registers model versions, moves aliases."""
