"""Operators of a .tflite go in, calls of the C kernels with their integers come out."""
