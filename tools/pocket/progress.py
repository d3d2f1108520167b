"""What a training stage leaves on disk: a checkpoint and a log that fit together.

A checkpoint is written only just after a row of the log, so a run that is killed
and started again drops the rows behind the checkpoint and goes on as if nothing
had happened.
"""

import os
import time

import numpy as np
import torch

PAUSE = 10  # seconds; a longer step was interrupted and counts as this much


def save(path, state):
    """Writes a checkpoint whole or not at all."""
    torch.save(state, f"{path}.part")
    os.replace(f"{path}.part", path)


class Log:
    """A CSV file: step, seconds spent, and the means of the columns since the last row."""

    def __init__(self, path, columns, every, step):
        self.path, self.every = path, every
        self.header = ",".join(("step", "seconds", *columns)) + "\n"
        self._clear(len(columns))
        with open(path, "a+") as file:
            file.seek(0)
            rows = [row for row in file.readlines()[1:] if self._is_whole(row) and int(row.split(",")[0]) <= step]
        with open(f"{path}.part", "w") as file:
            file.writelines([self.header, *rows])
        os.replace(f"{path}.part", path)

    def _is_whole(self, row):
        return row.endswith("\n") and row.count(",") == self.header.count(",")

    def _clear(self, n):
        self.sums, self.counts = np.zeros(n), np.zeros(n)

    def add(self, step, spent, sums, counts):
        """Counts a step; true when that wrote a row, and a checkpoint may follow."""
        self.sums += sums
        self.counts += counts
        if step % self.every:
            return False
        means = self.sums / np.maximum(self.counts, 1)
        with open(self.path, "a") as file:
            print(step, round(spent), *(f"{m:.4f}" for m in means), sep=",", file=file)
        self._clear(len(means))
        return True


class Clock:
    """Seconds that training took, over all its runs, and whether a checkpoint is due."""

    def __init__(self, spent, save_s):
        self.spent, self.save_s = spent, save_s
        self.last = self.saved = time.time()

    def tick(self):
        now = time.time()
        self.spent += min(now - self.last, PAUSE)
        self.last = now

    def is_due(self):
        if time.time() - self.saved < self.save_s:
            return False
        self.saved = time.time()
        return True
