"""Talk to the service: encode requests, send them, read the answers, decide on retries."""
