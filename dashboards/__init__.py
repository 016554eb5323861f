"""Dashboards, rules and alerts, written in jsonnet; `python -m dashboards` compiles them into `out/`."""
