"""What a method's training step computes: losses and the memory they keep.  Torch is imported by the functions."""
