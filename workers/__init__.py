"""The worker processes: hold models resident and run the engine. Never import FastAPI."""
