"""What the monitors cost, each figure that the documents state: ``python -m loadtests.monitors``."""
