"""Where images come from beside folders: tar archives, data sets in their released binary forms, packed lists."""
