"""The window rules by family: one module each, brought together by `krypton_onnx.passes.operators`."""
