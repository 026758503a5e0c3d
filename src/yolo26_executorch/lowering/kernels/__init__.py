"""Triton kernels as PyTorch operators, each with an eager form; they know nothing of YOLO."""
