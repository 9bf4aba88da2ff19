"""Stands for the Pysense shield."""


class Pysense:
    def read_battery_voltage(self):
        return 3.012
