"""The model on the contract ops of ``ds4_kernels``: Triton kernels on a GPU, their PyTorch references on a CPU."""
