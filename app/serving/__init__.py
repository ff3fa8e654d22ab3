"""What a server is: settings, limits, access, the log, and the workshop in which the model works."""
