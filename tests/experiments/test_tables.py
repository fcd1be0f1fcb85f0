"""What a run keeps of a table: its episodes once, and what became of every row."""

import json
from types import SimpleNamespace

import pytest

from envs.sources.tables import TableSource
from envs.traces import TraceStore
from experiments.config import EnvConfig, SourceConfig, WorldConfig
from experiments.logs.reading import INTAKE, read_log

MAPPING = "{episode: e, observation: [x, y], action: a, reward: r, final: repeat, consent: ok}"


class Once:
    """Stages that are computed and not kept; `said` is what was logged."""

    def __init__(self):
        self.said: list[str] = []
        self.progress = SimpleNamespace(log=self.said.append)

    def __call__(self, stage, total, like, work):
        return work(lambda n: None)


@pytest.fixture
def config(tmp_path):
    """A table of 20 episodes of five rows, without consent to the second."""
    lines = [f"{i // 5},{i * 0.5},{i},{i % 2},{i % 3},{i // 5 != 1}" for i in range(100)]
    (tmp_path / "log.csv").write_text("\n".join(["e,x,y,a,r,ok", *lines]) + "\n")
    (tmp_path / "m.yaml").write_text(MAPPING)
    source = SourceConfig("csv", str(tmp_path / "log.csv"), str(tmp_path / "m.yaml"))
    return WorldConfig(source=source, env=EnvConfig(id="none"))


def test_rows_that_were_left_out_are_kept_in_words_and_numbers(config, tmp_path):
    once = Once()
    log = read_log(config, tmp_path / "run", once)
    assert [len(trace) for trace in log.traces] == [5] * 19
    kept = json.loads((tmp_path / "run" / INTAKE).read_text())
    assert (kept["read"], kept["used"], kept["episodes"]) == (100, 95, 19)
    [skipped] = kept["skipped"]
    assert (skipped["reason"], skipped["rows"]) == ("no consent", 5)
    assert skipped["first"].endswith("log.csv: row 5: the episode that starts here")
    assert any("5 of 100 rows were left out: no consent" in line for line in once.said)


def test_a_reading_that_was_stopped_is_repeated_without_loss(config, tmp_path, monkeypatch):
    read_log(config, tmp_path / "whole", Once())
    monkeypatch.setattr("envs.traces.SEGMENT_BYTES", 1000)  # many segments

    def stopped(self):
        for number, trace in enumerate(episodes(self)):
            if number == 12:
                raise KeyboardInterrupt
            yield trace

    episodes = TableSource.__iter__
    with monkeypatch.context() as patch:
        patch.setattr(TableSource, "__iter__", stopped)
        with pytest.raises(KeyboardInterrupt):
            read_log(config, tmp_path / "run", Once())
    assert len(TraceStore(tmp_path / "run" / "traces")) == 0, "all or nothing"
    read_log(config, tmp_path / "run", Once())
    whole = TraceStore(tmp_path / "whole" / "traces")
    again = TraceStore(tmp_path / "run" / "traces")
    same = [a.rewards.tolist() == b.rewards.tolist() for a, b in zip(whole, again, strict=True)]
    assert len(same) == 19 and all(same)
