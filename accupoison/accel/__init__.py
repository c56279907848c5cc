"""What is computed in another way than by PyTorch's kernels one by one, for speed alone: of CPUs, and of CUDA."""
