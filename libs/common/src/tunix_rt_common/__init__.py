"""What two services of Tunix RT share, or a contract between them. Imports no service and no JAX."""
