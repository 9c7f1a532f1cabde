"""Tunix RT in one process tree. The one package that imports every service."""
