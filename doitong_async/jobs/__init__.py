"""From an accepted submit to its end: statuses, when to look, who looks, what the user awaits."""
