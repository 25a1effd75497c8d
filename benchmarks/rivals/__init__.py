"""Other libraries and services, each in an environment of its own, measured beside ours."""
