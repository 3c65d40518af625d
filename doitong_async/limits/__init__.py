"""Stay within the plan: its limits, its windows and the rate limiter in front of every request."""
