"""What the README claims, each reproducible with one command."""
