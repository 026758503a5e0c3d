"""From an eager module to an ExecuTorch program."""
