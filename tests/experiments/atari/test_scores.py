"""Scores of Atari-100k: numbers worked out by hand, and those that papers print."""

import numpy as np
import pytest

from envs.atari import GAMES
from experiments.atari.published import human_normalised, methods, table
from experiments.atari.scores import aggregates, intervals, profile

PRINTED = [method for method in methods() if method.printed_in]


def normalised(method):
    return {game: [human_normalised(game, score)] for game, score in method.scores.items()}


def test_the_scale_goes_from_random_to_human():
    for game in GAMES:
        assert human_normalised(game, table()["random"][game]) == 0
        assert human_normalised(game, table()["human"][game]) == 1
    assert human_normalised("Pong", 14.6 + 35.3) == pytest.approx(2)  # from -20.7 to 14.6


def test_every_published_column_has_a_source_and_all_games():
    assert {method.column for method in methods()} == set(table()) - {"random", "human"}
    assert len(methods()) == 25
    for method in methods():
        assert method.source and method.title and set(method.scores) == set(GAMES)


@pytest.mark.parametrize("method", PRINTED, ids=lambda method: method.column)
def test_aggregates_that_papers_print_follow_from_their_columns(method):
    found = aggregates(normalised(method), means_only=True)
    for name in ("mean", "median"):
        if printed := getattr(method, name):
            digits = len(printed.partition(".")[2])
            assert f"{found[name]:.{digits}f}" == printed, (name, found[name])
    if method.above_human:  # a mean that is rounded to the human score counts there
        ties = sum(scores[0] == 1 for scores in normalised(method).values())
        assert (found["above_human"] or 0) + ties == int(method.above_human)


def test_at_least_six_methods_print_aggregates():
    assert len(PRINTED) >= 6 and sum(bool(method.mean) for method in PRINTED) >= 6


def test_aggregates_by_hand():
    found = aggregates({"Pong": [0.0, 2.0], "Alien": [1.0, 1.0], "Krull": [4.0, 4.0]})
    assert found["mean"] == 2 and found["median"] == 1
    assert found["iqm"] == 2  # of 1, 1, 2, 4: without the 0 and a 4
    assert found["iqm_by_game"] == 2  # of 1, 1, 4: three are too few to leave one out
    assert found["optimality_gap"] == pytest.approx(1 / 6)  # only the 0 lies below a human
    assert found["optimality_gap_by_game"] == 0 and found["above_human"] == 1


def test_a_mean_over_games_weighs_games_and_not_runs():
    found = aggregates({"Pong": [1.0], "Alien": [0.0, 0.0, 0.0]})
    assert found["mean"] == 0.5


def test_what_needs_single_runs_is_not_known_of_means():
    found = aggregates({"Pong": [1.0], "Alien": [0.5]}, means_only=True)
    assert found["iqm"] is None and found["optimality_gap"] is None
    assert found["iqm_by_game"] == 0.75 and found["optimality_gap_by_game"] == 0.25


def test_intervals_draw_runs_within_their_game():
    same = intervals({"Pong": [0.0, 0.0], "Alien": [1.0, 1.0]})
    assert same["mean"] == [0.5, 0.5] and same["iqm"] == [0.5, 0.5]
    wide = intervals({"Pong": [0.0, 1.0], "Alien": [1.0, 1.0]})
    assert wide["mean"] == [0.5, 1.0]  # Pong alone varies
    assert set(intervals({"Pong": [0.0], "Alien": [0.0, 1.0]}).values()) == {None}


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng, covered = np.random.default_rng(0), 0
    for seed in range(100):
        runs = {game: rng.normal(1, 0.5, 8).tolist() for game in GAMES}
        low, high = intervals(runs, seed=seed, resamples=200)["mean"]
        covered += low <= 1 <= high
    assert 85 <= covered <= 100


def test_a_profile_by_hand():
    runs = {"Pong": [0.0, 2.0], "Alien": [1.0]}
    assert profile(runs, [-1, 0, 0.5, 1, 2]) == [1, 0.75, 0.75, 0.25, 0]
