"""The API service: accepts work in one transaction, shows everything, holds no JAX."""
