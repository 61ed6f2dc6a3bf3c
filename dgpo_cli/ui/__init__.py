"""Text, colours, pages and pictures, and the one console that prints."""
