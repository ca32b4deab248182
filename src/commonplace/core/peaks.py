"""The best of very many scores: the maximum of each block of hosts, kept as scores change, so that a choice reads two short arrays.

At 100,000 hosts a pass over all scores is most of what a choice costs; at 10,000 it is no more than the bookkeeping here.
"""

import numpy as np

from commonplace.core.columns import Floats
from commonplace.core.view import View

BLOCK = 256
TOGETHER_BLOCKS = 4
"""From so many changed blocks on they are gathered and reduced at once."""
ANEW_BLOCKS = 48
"""From so many changed blocks on one pass over all scores costs less than to gather them."""


class Peaks:
    """Maxima of one array of scores, whose changes are those that the view notes, and `doubt` beside them."""

    def __init__(self, scores: Floats) -> None:
        self._scores = scores
        self._starts = np.arange(0, len(scores), BLOCK)
        self._whole = scores[: len(scores) // BLOCK * BLOCK].reshape(-1, BLOCK)
        self._tops: Floats = np.empty(len(self._starts))
        self._seen = -1  # serial number of the next change to take in
        self._doubtful: set[int] = set()

    def doubt(self, index: int) -> None:
        """A score was changed of which the view knows nothing."""
        self._doubtful.add(index // BLOCK)

    def follow(self, view: View, seen: int) -> None:
        """Take in the view's changes up to number `seen`, which the scores have taken in."""
        first = view.changed_from
        blocks = self._doubtful
        if self._seen == seen and not blocks:
            return
        if self._seen >= first:
            blocks |= {index // BLOCK for index in view.changed[self._seen - first : seen - first]}
        if self._seen < first or len(blocks) >= ANEW_BLOCKS:
            self._tops = np.maximum.reduceat(self._scores, self._starts)
        else:
            last = len(self._whole)  # shorter than the others, where there is one
            for block in blocks if len(blocks) < TOGETHER_BLOCKS else blocks & {last}:
                self._tops[block] = self._block(block).max()
            if len(blocks) >= TOGETHER_BLOCKS:
                changed = list(blocks - {last})
                self._tops[changed] = np.maximum.reduce(self._whole.take(changed, 0), 1)
        self._seen, self._doubtful = seen, set()

    def first_best(self, start: int) -> int:
        """Index of the best score; of equal ones the first at or after `start`, going round: as `ranking.first_best` has it."""
        tops, at = self._tops, start // BLOCK
        block = int(tops.argmax())
        best = tops[block]
        if tops[at] == best:
            rest = self._scores[start : (at + 1) * BLOCK]
            pick = int(rest.argmax())
            if rest[pick] == best:
                return start + pick
        if block <= at and at + 1 < len(tops):  # going round, a later one comes first
            later = at + 1 + int(tops[at + 1 :].argmax())
            if tops[later] == best:
                block = later
        return block * BLOCK + int(self._block(block).argmax())

    def _block(self, block: int) -> Floats:
        return self._scores[block * BLOCK : (block + 1) * BLOCK]
