"""Triton kernels: beside each the operator that launches it, and its eager reference; nothing of ours is imported.

`conv_kernels` are launched by `conv`; every other file holds kernels, operators and references together. Without
Triton can be imported: `tf32`, `tile` and `layout`.
"""
