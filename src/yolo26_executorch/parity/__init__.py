"""Comparing a model's outputs with PyTorch's."""
