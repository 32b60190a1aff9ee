"""Bytes of an .onnx go in, bounds-checked values and nodes come out."""
