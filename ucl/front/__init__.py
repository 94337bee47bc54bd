"""What the commands share: options, standard streams, messages, run-directory sessions, and the work of the larger ones."""
