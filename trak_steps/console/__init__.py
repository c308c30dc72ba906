"""What a user reads: progress, messages, and files printed."""
