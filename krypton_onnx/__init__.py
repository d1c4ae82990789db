"""Exact occlusion heatmaps for exported ONNX CNNs."""
