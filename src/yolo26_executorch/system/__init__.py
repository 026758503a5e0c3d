"""What this machine is and has: versions, GPUs, compilers, and whether they fit each other."""
