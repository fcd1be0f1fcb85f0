"""What a run says on its way."""

from types import SimpleNamespace

import pytest

from experiments.runs.dream import chance_hint


@pytest.mark.parametrize(
    ("share", "codes", "words"),
    [
        (0.1, 1, None),
        (0.5, 1, "50% of what changes in a step is random"),
        (0.5, 4, None),
        (1.0, 1, "100% of what changes"),
        (21.64, 1, "less well than if nothing ever changed"),
    ],
)
def test_a_share_of_chance_beyond_all_is_a_model_that_learned_nothing(share, codes, words):
    world = SimpleNamespace(model=SimpleNamespace(num_codes=codes))
    hint = chance_hint(SimpleNamespace(world=world, fidelity={"chance": share}))  # type: ignore
    assert (hint is None) == (words is None)
    assert (words or "") in (hint or "") and "2164" not in (hint or "")
