"""What CPUs compute in another way than PyTorch, for speed alone."""
