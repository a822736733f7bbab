"""ONNX Runtime as a second backend: programs and kernels as ONNX graphs, built, timed and shipped.

Nothing here runs unless a target says ``backend = "onnxruntime"`` or a comparison asks for ONNX
Runtime. Importing this package imports neither onnx nor onnxruntime.
"""

from __future__ import annotations
