"""Stands for the sensor of temperature and humidity."""


class SI7006A20:
    def __init__(self, _shield):
        pass

    def temperature(self):
        return -3.25

    def humidity(self):
        return 43.1
