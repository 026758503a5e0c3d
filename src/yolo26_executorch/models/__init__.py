"""What is exported: variants, tasks, options, checkpoints, and the module that goes into the compiler."""
