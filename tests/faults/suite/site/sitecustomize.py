"""Runs at the start of every Python process of the suite's cluster, exec'd and spawned ones too."""

from tests.faults.suite import crashing

crashing.install()
