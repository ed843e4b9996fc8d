"""The fast tests fail when the code is wrong: small bugs are put in one at a time. And the harness that does so."""

import ast
import time

import pytest
from conftest import REPOSITORY
from mutation import MODULES, WANTED, measure, mutants_of, read_equivalent

SOURCE = '''
def clipped(value: int = 3, *, least=0) -> int:
    """At least 3 of 5."""
    if value < least and not value == 7:
        raise ValueError(f"{value + 1} is less than {least - 1}")
    for item in range(2):
        if item in (1,):
            continue
    return min(value, 10)
'''


def test_mutants_change_one_place_each_and_no_text_for_people():
    mutants = mutants_of("m.py", SOURCE)
    changes = {(mutant.before, mutant.after) for mutant in mutants}
    assert {
        ("value < least", "value <= least"),
        ("value == 7", "value != 7"),
        ("not value == 7", "value == 7"),
        ("3", "4"),
        ("0", "1"),
        ("10", "11"),
        ("min", "max"),
        ("continue", "break"),
        ("item in (1,)", "item not in (1,)"),
    } <= changes
    assert not {"value + 1", "least - 1"} & {before for before, _ in changes}, "numbers in messages stay"
    whole = ast.unparse(ast.parse(SOURCE))
    for mutant in mutants:
        made = mutant.make()
        different = [pair for pair in zip(whole.splitlines(), made.splitlines()) if pair[0] != pair[1]]
        assert len(different) == 1 and ast.parse(made), mutant
    assert ast.unparse(ast.parse(SOURCE)) == whole and mutants[0].make() == mutants[0].make()


def test_every_module_and_test_that_is_named_exists_and_equivalent_mutants_are_still_there():
    for module, tests in MODULES.items():
        assert (REPOSITORY / "scripts" / module).is_file(), module
        assert all((REPOSITORY / f"tests/test_{name}.py").is_file() for name in tests.split()), tests
    names = {}
    for module, *_ in read_equivalent():
        source = (REPOSITORY / "scripts" / module).read_text(encoding="utf-8")
        names |= {mutant.name: mutant for mutant in mutants_of(module, source)}
    assert [name for name in read_equivalent() if name not in names] == []
    assert all(read_equivalent().values()), "each has its reason"


@pytest.mark.soak
def test_of_a_sample_of_mutants_the_fast_tests_notice_nearly_all():
    """Another seed each week, so that tests are not written for one sample."""
    score, _ = measure(list(MODULES), sample=6, seed=int(time.strftime("%G%V")))
    print(f"{score:.1%} of the mutants were noticed, {WANTED:.0%} are wanted")
    assert score >= WANTED
