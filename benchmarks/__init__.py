"""The numbers of this library, for anyone to make again: `python -m benchmarks`."""
