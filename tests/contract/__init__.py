"""What the service promises, asked of whatever says it is the service."""
