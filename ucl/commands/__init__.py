"""One file per command: options, load, call, save."""
