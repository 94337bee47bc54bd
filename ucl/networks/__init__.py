"""The networks: a table of backbones that needs no torch, their modules, the Sobel front end, and taps on their layers."""
