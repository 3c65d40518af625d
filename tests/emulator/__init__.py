"""Tests of the emulator as a server, without the client."""
