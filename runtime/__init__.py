"""The driver: feeds an artifact's two graphs through ONNX Runtime. Imports no compiler and no onnx."""
