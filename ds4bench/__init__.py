"""ds4bench: the promotion gate for serving DeepSeek-V4-Flash."""

__version__ = "0.1.0"
