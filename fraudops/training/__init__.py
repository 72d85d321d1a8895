"""Training: settings, pipelines, compilation to ONNX and plots."""
