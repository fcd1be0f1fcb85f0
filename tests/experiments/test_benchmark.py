"""The verb: what it prints, what it writes, what it says when memory runs out."""

import json

import pytest

from experiments.bench import images as bench_images
from experiments.bench import vectors as bench_vectors
from experiments.command import runtime

TINY = ("size=nano", "frame=[32,32,1]", "batch=4", "searches=4", "refresh_batch=4", "capacity=64")


@pytest.fixture
def benchmark(verb, monkeypatch):
    """The verb without the settings that would outlive it in this process."""
    monkeypatch.setattr(runtime, "configure", lambda **_: None)
    return lambda *words: verb("benchmark", *words)


def test_parts_are_shown_apart_and_written_flat(benchmark, monkeypatch, tmp_path):
    images = {
        "device/peak_flops_per_s": 2e11,
        "search/searches_per_s": 812.0,
        "search/mfu": 0.25,
        "learn/updates_per_s": 2.0,
        "learn/mfu": 0.5,
        "predict/minutes_per_game": 90.0,
    }
    monkeypatch.setattr(bench_images, "measure", lambda *_: images)
    monkeypatch.setattr(bench_vectors, "measure", lambda *_: {"search/searches_per_s_of_64": 1e6})
    path = tmp_path / "benchmark.json"
    code, out, _ = benchmark(*TINY, f"path={path}")
    assert code == 0
    vectors, _, shown = out.partition("IMAGES")
    assert "1,000,000" in vectors and "812" in shown and "25.0 %" in shown
    assert "4 latents at once" in shown and "1 h 30 min" in shown
    written = json.loads(path.read_text())
    assert written["figures"]["images/search/searches_per_s"] == 812
    assert written["figures"]["search/searches_per_s_of_64"] == 1e6
    assert written["figures"]["device/peak_flops_per_s"] == 2e11
    assert written["figures"]["peak_memory_mb"] > 0
    assert written["images"]["frame"] == [32, 32, 1] and written["machine"]["cores"] > 0


def test_out_of_memory_names_the_knob(benchmark, monkeypatch):
    import jax

    def measure(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.")

    monkeypatch.setattr(bench_images, "measure", measure)
    code, _, err = benchmark(*TINY, "part=images", "batch=512")
    assert code == 2 and len(err) == 1
    assert "batch=512 takes about" in err[0] and "batch=256 frees about" in err[0]


@pytest.mark.parametrize("word", ["part=audio", "size=huge", "frame=[96,96]", "batch=0"])
def test_what_cannot_be_measured_is_refused(fails, word):
    fails("benchmark", word, words=(word.partition("=")[0],), code=(2,))
