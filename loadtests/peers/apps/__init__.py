"""What runs inside the peers' processes, in their environments: they have onnxruntime, and not what Gaugeway has."""
