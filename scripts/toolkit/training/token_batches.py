"""Which records go through the model together: alike in length, within a budget of tokens, for any number of processes.

Documents differ in length by a factor of ten, so a batch of unlike records is mostly padding. But batches of like
records are a biased sample: sorted over large groups they trained a worse model here (micro-F1 0.65 sorted, 0.81 at
random, after 1.5 epochs). So the records of an optimizer step are drawn at random. Length only decides which of the
step's passes each record goes through.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence


class TokenBatches:
    """A torch batch sampler: lists of record numbers for one of `world` processes, in an order fixed by seed and epoch.

    A batch has `records` records, or as many as `tokens` hold. Padded batches count their longest length times their
    number, `packed` ones the sum of their lengths. A record longer than `tokens` is a batch of its own. An optimizer
    step is `passes` batches in every process.

    With a token budget the batches are made once and only their order changes, so every epoch has the same number of
    steps. Every process gets equally many: if the batches do not divide, the last ones are handed out a second time
    as `(record, False)`, to be run without a loss.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        records: int = 1,
        tokens: int = 0,
        packed: bool = False,
        passes: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.lengths, self.records, self.tokens, self.packed = list(lengths), records, tokens, packed
        self.seed, self.rank, self.world = seed, rank, world
        self.passes = passes
        self.epoch = 0
        self._fixed = self._cut(random.Random(seed)) if tokens else None
        count = sum(map(len, self._fixed)) if self._fixed is not None else -(-len(self.lengths) // records)
        self.count = -(-count // world)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches of one process in one epoch."""
        return self.count

    def __iter__(self) -> Iterator[list[tuple[int, bool]]]:
        draw = random.Random(f"{self.seed} {self.epoch}")
        steps = [list(step) for step in self._fixed] if self._fixed is not None else self._cut(draw)
        draw.shuffle(steps)
        batches = [batch for step in steps for batch in step]
        whole = [[(index, True) for index in batch] for batch in batches]
        spare = self.count * self.world - len(whole)
        # Without a loss: a repeated record must not count twice, and no process may wait for one without work.
        whole += [[(index, False) for index in batches[-1 - n % len(batches)][:1]] for n in range(spare)]
        yield from whole[self.rank :: self.world]

    def longest(self) -> list[int]:
        """The batch with the most tokens that can come: what memory must hold."""
        if self._fixed is not None:
            return max((batch for step in self._fixed for batch in step), key=self._size)
        return sorted(range(len(self.lengths)), key=self.lengths.__getitem__, reverse=True)[: self.records]

    def padding(self) -> float:
        """Share of padding among the tokens of this process's batches in an epoch."""
        own = [[index for index, _ in batch] for batch in self]
        spent = sum(map(self._size, own))
        return 1 - sum(self.lengths[index] for batch in own for index in batch) / spent if spent else 0.0

    def _size(self, batch: Sequence[int]) -> int:
        own = [self.lengths[index] for index in batch]
        return sum(own) if self.packed else max(own) * len(own)

    def _cut(self, draw: random.Random) -> list[list[list[int]]]:
        """Optimizer steps of batches: records at random, sorted by length within a step.

        With a token budget a step takes as many records as its passes hold; its last batch may go into the next step.
        """
        order = list(range(len(self.lengths)))
        draw.shuffle(order)
        share = self.passes * self.world
        if not self.tokens:
            size = self.records * share
            steps = [order[start : start + size] for start in range(0, len(order), size)]
        else:
            steps = []
            for index in order:
                # As many as its passes hold; what is far below their budget is not tried.
                grown = [*steps[-1], index] if steps else []
                small = 2 * sum(self.lengths[i] for i in grown) < self.tokens * share
                if grown and (small or len(self._batches_of(grown)) <= share):
                    steps[-1].append(index)
                else:
                    steps.append([index])
        return [self._batches_of(step) for step in steps]

    def _batches_of(self, records: list[int]) -> list[list[int]]:
        """Batches of one step's records, longest first."""
        records = sorted(records, key=self.lengths.__getitem__, reverse=True)
        if not self.tokens:
            return [records[start : start + self.records] for start in range(0, len(records), self.records)]
        batches: list[list[int]] = []
        for index in records:
            if batches and self._size([*batches[-1], index]) <= self.tokens:
                batches[-1].append(index)
            else:
                batches.append([index])
        return batches
