"""Export a run's best weights as safetensors, ONNX, torch.export or a timm folder, with a model card."""
