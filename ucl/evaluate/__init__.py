"""`ucl evaluate`: measured numbers.  The only place where the truth is read; nothing here chooses a model."""
