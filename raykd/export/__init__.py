"""The best weights of a run, taken away: safetensors, ONNX, torch.export or timm, with a model card beside them."""
