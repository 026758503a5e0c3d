"""A data set drawn by code, for the five tasks, and the training of the small models that are bundled for tests."""
