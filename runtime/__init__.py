"""The driver: feeds an artifact's graphs through ONNX Runtime. Imports no compiler and no onnx."""
