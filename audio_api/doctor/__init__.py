"""Is everything in order? Of this installation, and of what the library believes about the API."""
