"""How the cost of a request grows, with published models, versions, features and rows: ``python -m loadtests.growth``.

Each size is a real gateway worker with the table that the control plane would leave on its disk; its replicas are real
engines in one process, whose model adds up its features. Records are written as ever, with all features declared.
"""
