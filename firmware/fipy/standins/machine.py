"""Stands for the board: deep sleep ends the program, and whoever started it starts it again."""

import sys


def deepsleep(ms):
    print("sleeps for", ms, "ms")
    sys.exit(0)
