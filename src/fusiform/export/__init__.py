"""Models for use elsewhere: ONNX and torch.export files that carry their card, and weights under the names of others.

    from fusiform.export import load_onnx       needs neither torch nor onnx, only onnxruntime
    model = load_onnx("encoder.onnx")
    model(crops)["embedding"]

Every exported file was run beside the model that it was made from before it got its name; what differed by more than
its precision allows was never written.
"""

from fusiform.export.loading import OnnxModel, load_onnx

__all__ = ["OnnxModel", "load_onnx"]
