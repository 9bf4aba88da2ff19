"""A device of Claviger: it never makes a key and does no public-key work of its own."""
