"""The converters around a crossbar: DAC, ADC, and the accumulator behind it."""
