"""The limits of one API key for many processes, by way of a Redis server."""
