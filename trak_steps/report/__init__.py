"""A run as a page that opens in a browser: what it says, its figures, and the page itself."""
