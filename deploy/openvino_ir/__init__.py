# SPDX-License-Identifier: Apache-2.0
"""An .onnx file goes in, OpenVINO's own format (.xml and .bin) comes out; and the engine that runs both."""
