"""The read-only HTTP API: what ``python -m db … --json`` answers, over GET. See :mod:`app.api.application`."""
