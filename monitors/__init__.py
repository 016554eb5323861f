"""The sidecar of Gaugeway: drift, quality, risk, latency and experiments, exported to Prometheus."""
