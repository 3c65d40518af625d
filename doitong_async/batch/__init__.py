"""Many jobs under one roof: read as they are needed, each of them paid once."""
