"""`python -m krypton_onnx.cli`, for where the installed script is not on the path."""

from krypton_onnx.cli import main

main(prog_name="krypton-onnx")
