"""The draft of a mapping: it reads the table it was made from, and marks all that is guessed."""

import numpy as np
import pyarrow as pa
import pytest
import yaml

from envs.sources import open_source
from envs.sources.mapping import Mapping
from envs.sources.suggestion import suggest

from .conftest import FORMATS, write_table

NOTHING = Mapping(episode="", observation=[], action=[])


def sales(shuffled=False):
    """Ten weeks of a shop, with a column for each kind of guess."""
    draw, rows = np.random.default_rng(0), 70
    table = pa.table(
        {
            "saleId": np.arange(rows),
            "session": [f"week {i // 7}" for i in range(rows)],
            "day": [i % 7 for i in range(rows)],
            "shop": [("north", "south")[i % 2] for i in range(rows)],
            "note": [f"note {i}" for i in range(rows)],
            "on": [i % 3 == 0 for i in range(rows)],
            "price": draw.normal(size=rows),
            "final_sum": draw.normal(size=rows),
            "still": [1] * rows,
            "action": [int(x) for x in draw.integers(0, 3, rows)],
            "profit": draw.normal(size=rows),
            "done": [i % 7 == 6 for i in range(rows)],
        }
    )
    return table.take(draw.permutation(rows)) if shuffled else table


def drafted(tmp_path, name, table):
    path = write_table(tmp_path / f"log.{name}", table)
    text = suggest(open_source(name, path, mapping=NOTHING))  # type: ignore[arg-type]
    return path, text, yaml.safe_load(text)


@pytest.mark.parametrize("name", FORMATS)
def test_a_draft_reads_the_table_it_was_made_from(tmp_path, name):
    path, text, found = drafted(tmp_path, name, sales())
    types = found.pop("types")
    assert found == {
        "episode": "session",
        "observation": [*types],
        "action": "action",
        "reward": "profit",
        "terminated": "done",
        "final": "repeat",
    }
    dropped = dict.fromkeys(("saleId", "note", "still"), "identifier")
    kept = {"shop": "category", "on": "flag", "day": "count", "price": "number"}
    assert types == dropped | kept | {"final_sum": "number"}
    assert "known before the action? its name holds 'final'" in text
    lines = [line for line in text.splitlines() if not line.startswith("#") and line != "types:"]
    assert all("# guess: " in line for line in lines)
    traces = list(open_source(name, path, mapping=found | {"types": types}))
    assert [len(trace) for trace in traces] == [7] * 10


def test_a_draft_sorts_rows_that_do_not_stand_together(tmp_path):
    path, _, found = drafted(tmp_path, "csv", sales(shuffled=True))
    assert found["order"] == "day"
    assert len(list(open_source("csv", path, mapping=found))) == 10


def test_what_no_column_looks_like_is_left_to_be_named(tmp_path):
    table = sales().rename_columns({"profit": "q", "action": "b"})
    path, text, found = drafted(tmp_path, "csv", table)
    assert found["reward"] == found["action"] == "???"
    assert 'reward: "???"  # no column looks like it; name one' in text
    with pytest.raises(ValueError, match=r"neither a column nor arithmetic|has no column \?\?\?"):
        open_source("csv", path, mapping=found).schema()


def test_empty_last_actions_and_next_columns_are_seen(tmp_path):
    log = {"case": [1, 1, 2, 2], "y": [0.5, 1.5, 2.5, 3.5], "act": [0, None, 1, None]}
    _, _, found = drafted(tmp_path, "parquet", log | {"reward": [0.1, None, 0.2, None]})
    assert "final" not in found and found["episode"] == "case"
    later = {"next_y": [1.5, 2.5, 3.5, 4.5], "act": [0, 1, 1, 0], "reward": [0.1, 0.2, 0.3, 0.4]}
    _, _, found = drafted(tmp_path, "parquet", log | later)
    assert (found["observation"], found["next_observation"]) == (["y"], ["next_y"])
    assert "final" not in found
