"""Tests of the emulator as a server of its own, without the client."""
