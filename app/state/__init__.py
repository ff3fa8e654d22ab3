"""The state of a page, as a value and as its address."""
