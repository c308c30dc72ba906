"""What the steps write and read: complete or absent, and saying what it was made from."""
