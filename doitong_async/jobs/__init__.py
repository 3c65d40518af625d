"""Follow a job from its accepted submit to its end: lifecycle, poll schedule, poller, awaitable job."""
