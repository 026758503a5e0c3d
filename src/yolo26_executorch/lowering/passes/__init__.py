"""Rewrites of the exported graph for the CUDA backend."""
