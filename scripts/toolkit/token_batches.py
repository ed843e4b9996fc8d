"""Which records go through the model together: alike in length, within a budget of tokens, the same for every process count.

Padding is the waste of a batch of unlike records: pages differ by a factor of ten. Records are drawn at random, sorted by length within large
groups, and cut into batches; the batches come in random order.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

GROUP = 50  # batches that are sorted by length together: more means less padding and less chance in what meets what


class TokenBatches:
    """A torch batch sampler: lists of record numbers for one of `world` processes, in an order fixed by seed and epoch.

    Either `records` a batch, or as many as `tokens` hold: their longest length times their number where batches are padded, the sum of
    their lengths where they are `packed`. A record longer than `tokens` is a batch of its own. With a token budget the batches
    are made once and only their order changes, so that every epoch has the same number of steps. Every process gets equally many:
    where the batches do not divide, the last ones are handed out a second time as `(record, False)`, to be run without a loss.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        records: int = 1,
        tokens: int = 0,
        packed: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.lengths, self.records, self.tokens, self.packed = list(lengths), records, tokens, packed
        self.seed, self.rank, self.world = seed, rank, world
        self.epoch = 0
        self._fixed = self._cut(random.Random(seed)) if tokens else None
        count = len(self._fixed) if self._fixed is not None else -(-len(self.lengths) // records)
        self.count = -(-count // world)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches of one process in one epoch."""
        return self.count

    def __iter__(self) -> Iterator[list[tuple[int, bool]]]:
        draw = random.Random(f"{self.seed} {self.epoch}")
        batches = [list(batch) for batch in self._fixed] if self._fixed is not None else self._cut(draw)
        draw.shuffle(batches)
        whole = [[(index, True) for index in batch] for batch in batches]
        spare = self.count * self.world - len(whole)
        # Without a loss: a repeated record must not count twice, and no process may wait for one that has nothing to do.
        whole += [[(index, False) for index in batches[-1 - n % len(batches)][:1]] for n in range(spare)]
        yield from whole[self.rank :: self.world]

    def longest(self) -> list[int]:
        """The batch with the most tokens: what memory must hold."""
        batches = self._fixed if self._fixed is not None else self._cut(random.Random(self.seed))
        if self._fixed is None:
            by_length = sorted(range(len(self.lengths)), key=self.lengths.__getitem__, reverse=True)
            return by_length[: self.records]
        return max(batches, key=self._size)

    def padding(self) -> float:
        """Share of padding among the tokens of an epoch's padded batches."""
        batches = self._fixed if self._fixed is not None else self._cut(random.Random(f"{self.seed} 0"))
        spent = sum(self._size(batch) for batch in batches)
        return 1 - sum(self.lengths) / spent if spent else 0.0

    def _size(self, batch: Sequence[int]) -> int:
        own = [self.lengths[index] for index in batch]
        return sum(own) if self.packed else max(own) * len(own)

    def _cut(self, draw: random.Random) -> list[list[int]]:
        order = list(range(len(self.lengths)))
        draw.shuffle(order)
        if not self.tokens:
            size = self.records * GROUP
            sorted_groups = [
                sorted(order[start : start + size], key=self.lengths.__getitem__, reverse=True)
                for start in range(0, len(order), size)
            ]
            flat = [index for group in sorted_groups for index in group]
            return [flat[start : start + self.records] for start in range(0, len(flat), self.records)]
        # Longest first, so that the first record of a batch says what padding costs.
        order.sort(key=self.lengths.__getitem__, reverse=True)
        batches: list[list[int]] = []
        for index in order:
            if batches and self._size([*batches[-1], index]) <= self.tokens:
                batches[-1].append(index)
            else:
                batches.append([index])
        return batches
