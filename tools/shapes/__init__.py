"""A data set drawn by code, one format for each task, and the training of the small models in `weights/`."""
