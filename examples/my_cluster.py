#!/usr/bin/env python
"""A stage of your own in the middle of the pipe:  ucl extract | ./my_cluster.py | ucl train-epoch"""
import io
import sys

import h5py
import numpy as np
from sklearn.cluster import MiniBatchKMeans

with h5py.File(io.BytesIO(sys.stdin.buffer.read())) as f:
    x = f["features"][:]
good = np.isfinite(x).all(1)  # the row of an unreadable image is NaN
labels = np.full(len(x), -1)
labels[good] = MiniBatchKMeans(50, random_state=0, n_init=1).fit_predict(x[good])
out = io.BytesIO()
with h5py.File(out, "w") as f:
    f["labels"] = labels
sys.stdout.buffer.write(out.getvalue())
