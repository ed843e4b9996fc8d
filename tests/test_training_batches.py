"""Batches by tokens: every record once, within the budget, drawn at random, and shared between processes."""

import random
import statistics


def test_batches_hold_every_record_once_within_their_budget():
    from toolkit.training.token_batches import TokenBatches

    draw = random.Random(3)
    lengths = [draw.choice([300, 900, 2500, 6000]) + draw.randrange(200) for _ in range(500)]
    for packed in (False, True):
        batches = TokenBatches(lengths, tokens=8000, packed=packed, seed=1)
        epochs = []
        for epoch in range(2):
            batches.set_epoch(epoch)
            found = list(batches)
            assert len(found) == len(batches)
            assert sorted(index for batch in found for index, _ in batch) == list(range(500))
            for batch in found:
                own = [lengths[index] for index, counts in batch if counts]
                assert len(own) == len(batch) and (
                    len(own) == 1 or (sum(own) if packed else max(own) * len(own)) <= 8000
                )
            epochs.append(found)
        assert epochs[0] != epochs[1] and epochs[0] == list(TokenBatches(lengths, tokens=8000, packed=packed, seed=1))
    assert TokenBatches(lengths, tokens=8000, passes=4).padding() < 0.15
    by_records = TokenBatches(lengths, records=4, passes=8, seed=1)
    assert (
        len(list(by_records)) == len(by_records) == 125
        and sorted(lengths[i] for i in by_records.longest()) == sorted(lengths)[-4:]
    )
    assert by_records.padding() < 0.12 < 0.4 < TokenBatches(lengths, records=4, passes=1, seed=1).padding()


def test_an_optimizer_step_is_a_random_draw_of_the_records():
    """Sorting by length must not decide what meets in a step: mean lengths vary as those of random draws do."""
    from toolkit.training.token_batches import TokenBatches

    draw = random.Random(5)
    lengths = [draw.choice([300, 900, 2500, 6000]) + draw.randrange(200) for _ in range(1600)]
    batches = [[index for index, _ in batch] for batch in TokenBatches(lengths, records=4, passes=4, seed=1)]
    steps = [[index for batch in batches[start : start + 4] for index in batch] for start in range(0, 400, 4)]
    own = statistics.pstdev(statistics.mean(lengths[i] for i in step) for step in steps)
    expected = statistics.pstdev(lengths) / 16**0.5
    assert 0.75 * expected < own < 1.25 * expected
    within = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in batches]
    assert statistics.mean(within) < 0.6 * statistics.pstdev(lengths)


def test_every_process_gets_as_many_batches_and_no_record_counts_twice():
    from toolkit.training.token_batches import TokenBatches

    lengths = [100 + n for n in range(21)]
    shares = [list(TokenBatches(lengths, records=4, seed=2, rank=rank, world=4)) for rank in range(4)]
    assert {len(share) for share in shares} == {2}
    counted = [index for share in shares for batch in share for index, counts in batch if counts]
    assert sorted(counted) == list(range(21))
    assert sum(not counts for share in shares for batch in share for _, counts in batch) == 2
