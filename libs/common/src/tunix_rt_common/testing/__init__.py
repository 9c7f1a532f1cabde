"""Fakes that keep the ports' promises, for tests of whatever stands on them."""
