"""ds4-kernels: DeepSeek-V4 cache layouts and ops. ``ds4_kernels.reference`` is the truth in plain PyTorch."""

__version__ = "0.1.0"
