"""Tests of the commands as processes: exit code, both streams, and what is on disk afterwards."""
