"""Locust scenarios with real flight rows: ``python -m loadtests.scenarios spike --url http://127.0.0.1:8080``.

Importing `locust` patches the standard library for gevent. Only `client` and the locustfiles (`steady`, `diurnal`,
`spike`, `experiment`, `drift`) do; the rest is pure and can be imported by anything.
"""
