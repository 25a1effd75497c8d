"""What runs in the rivals' environments; nothing of camserve is installed there.

Each file is what somebody would write who follows the rival's documentation, on the same network
with the same weights and the same preprocessing.
"""
