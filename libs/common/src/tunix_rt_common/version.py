"""Which code this is, for provenance."""

from importlib.metadata import version

CODE_VERSION = version("tunix-rt-common")
