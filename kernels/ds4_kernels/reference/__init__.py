"""Reference ops in plain PyTorch: any device, FP32 or FP64, no Triton import.

Shapes use the field's letters: T tokens, H heads, D head dimension, K candidates, E experts.
"""
