"""Speaking with the service: how it is spelled, how it is sent, when it is sent again."""
