"""What the service promises, tested on every server that plays the service."""
