"""Traces: reading them from foreign formats, storing and listing them."""
