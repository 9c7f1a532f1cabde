"""The evaluator service: generates, judges, and rules by the gate."""
