"""Runs before main.py at every start; a device of Claviger has nothing to do here."""
