"""A finished export on disk: its manifest, files, card, and the rules for writing and trusting them."""
