"""The data plane of Gaugeway and its control plane."""
