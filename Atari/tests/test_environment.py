"""Environments: the published code's frames, the benchmark's rules, the emulators."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import gymnasium
import numpy as np
import pytest
from record_trajectories import FILE, SETTINGS, STEPS, drawn_actions, fingerprint, game_env, play

from mlr_atari.environment import AtariEnv, make_environment
from mlr_atari.errors import ConfigError
from mlr_atari.games import BENCHMARK_GAMES, rom_folder


def _crc(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def _seed_with_no_ops(count: int) -> int:
    """A seed whose game begins with `count` no-ops."""
    draws = (np.random.default_rng(seed).integers(1, 30, endpoint=True) for seed in range(1000))
    return next(seed for seed, drawn in enumerate(draws) if drawn == count)


# --- the published code's frames ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "game", "training", "max_steps"),
    [
        ("pong", "pong", True, 27_000),
        ("breakout_episodic", "breakout", True, 27_000),
        ("breakout_full", "breakout", False, 27_000),
        ("ms_pacman_episodic", "ms_pacman", True, 27_000),
        ("pong_horizon50", "pong", True, 51),  # published: a horizon of 50 ends at the 51st step
    ],
)
def test_published_games(
    golden: Callable[[str], Any], run: str, game: str, training: bool, max_steps: int
) -> None:
    stored = golden("atari_m_env")
    settings = replace(SETTINGS, max_steps=max_steps)
    env = AtariEnv(game, settings, training=training, seed=0)
    assert list(env._emulator.actions) == stored[f"{run}/action_set"].tolist()
    obs, _ = env.reset(seed=_seed_with_no_ops(stored[f"{run}/noops"]))
    assert _crc(obs) == stored[f"{run}/crc_reset_obs"]
    np.testing.assert_array_equal(obs[-1], stored[f"{run}/reset_newest"])
    for step, action in enumerate(stored[f"{run}/actions"]):
        obs, reward, terminated, truncated, info = env.step(action)
        seen = {
            "crc_obs": _crc(obs),
            "reward": reward,
            "game_score": info["raw_reward"],
            "done": terminated or truncated,
            "traj_done": info["game_over"],
            "lives": info["lives"],
        }
        assert seen == {name: stored[f"{run}/{name}"][step] for name in seen}, f"step {step}"
        if (terminated or truncated) and not info["game_over"]:
            np.testing.assert_array_equal(env.reset()[0], obs)
    assert truncated == (max_steps == 51)


def _compare(game: str, steps: int) -> None:
    recorded = json.loads(FILE.read_text())
    stored, found = recorded["games"][game], fingerprint(game, steps)
    stored["digest"] = {count: stored["digest"][count] for count in found["digest"]}
    assert found == stored, (
        f"{game} is not played as it was recorded (opencv {recorded['opencv']}, now "
        f"{cv2.__version__}). If emulator, ROM or opencv were changed on purpose, record it "
        "anew with tests/record_trajectories.py and say why in the commit."
    )


@pytest.mark.parametrize("game", BENCHMARK_GAMES)
def test_games_are_played_as_recorded(game: str) -> None:
    _compare(game, STEPS[0])


@pytest.mark.soak
@pytest.mark.parametrize("game", BENCHMARK_GAMES)
def test_games_are_played_as_recorded_for_long(game: str) -> None:
    _compare(game, STEPS[-1])


# --- the benchmark's rules ------------------------------------------------------------------------


def test_observations_begin_with_blank_frames_and_are_copies() -> None:
    env = game_env("breakout")
    first, info = env.reset()
    assert first.shape == (4, 84, 84)
    assert first.dtype == np.uint8
    assert not first[:3].any()
    assert first[3].any()
    assert info == {
        "raw_reward": 0.0,
        "score": 0.0,
        "game_steps": 0,
        "lives": 5,
        "life_lost": False,
        "game_over": False,
    }
    kept = first.copy()
    second = env.step(0)[0]
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(second[2], first[3])
    np.testing.assert_array_equal(env.frame, second[3])
    assert not second[:2].any()


def test_a_lost_life_ends_a_training_episode_and_not_the_game() -> None:
    env = game_env("breakout")
    env.reset()
    episodes, steps, info = 0, 0, {"game_over": False}
    while not info["game_over"]:
        obs, _, terminated, truncated, info = env.step(drawn_actions(4, 9000)[steps])
        steps += 1
        assert info["game_steps"] == steps
        if not terminated:
            continue
        episodes += 1
        assert not truncated
        assert info["life_lost"] != info["game_over"]
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(0)
        if info["life_lost"]:
            assert not obs[:3].any(), "the next life's stack begins with blanks"
            again, info = env.reset()
            np.testing.assert_array_equal(again, obs)
            assert info["lives"] == 5 - episodes
    assert episodes == 5
    assert env.reset()[1]["lives"] == 5


@pytest.mark.parametrize("protocol", ["atari100k", "atari100k_sticky"])
def test_evaluation_and_the_sticky_protocol_play_whole_games(protocol: str) -> None:
    env = game_env("breakout", training=protocol == "atari100k_sticky", protocol=protocol)
    env.reset()
    lost = 0
    for action in drawn_actions(4, 9000):
        _, _, terminated, _, info = env.step(action)
        lost += info["life_lost"]
        assert terminated == info["game_over"]
        if terminated:
            break
    assert lost == 4
    assert info["lives"] == 0


def test_rewards_are_clipped_in_training_only() -> None:
    training, evaluation = (
        game_env("ms_pacman", training=each, protocol="atari100k_sticky") for each in (True, False)
    )
    training.reset(seed=3)
    evaluation.reset(seed=3)
    score = 0.0
    for action in drawn_actions(9, 150):
        clipped, raw = training.step(action), evaluation.step(action)
        assert raw[4] == clipped[4]
        score += raw[1]
        assert raw[1] == raw[4]["raw_reward"]
        assert clipped[1] == np.sign(raw[1])
        assert raw[4]["score"] == score
    assert score > 10, "something was eaten"


def test_the_cap_truncates_and_the_next_reset_begins_a_game() -> None:
    env = game_env("pong", max_steps=5)
    env.reset(seed=0)
    for step in range(5):
        _, _, terminated, truncated, info = env.step(0)
        assert (terminated, truncated, info["game_over"]) == (False, step == 4, step == 4)
    assert env.reset(seed=0)[1]["game_steps"] == 0


def test_a_life_lost_at_the_cap_ends_the_game_too() -> None:
    long = game_env("breakout")
    long.reset(seed=0)
    for action in drawn_actions(4, 300):
        info = long.step(action)[4]
        if info["life_lost"]:
            break
    env = game_env("breakout", max_steps=info["game_steps"])
    env.reset(seed=0)
    for action in drawn_actions(4, 300)[: info["game_steps"]]:
        _, _, terminated, truncated, info = env.step(action)
    assert (terminated, truncated, info["life_lost"], info["game_over"]) == (True,) * 4


def test_games_begin_with_1_to_30_no_ops_by_their_seed() -> None:
    env = game_env("pong")

    def no_ops(seed: int) -> int:
        env.reset(seed=seed)
        return env._emulator._console.getEpisodeFrameNumber() - 1  # type: ignore[attr-defined]

    assert [no_ops(_seed_with_no_ops(count)) for count in (1, 17, 30)] == [1, 17, 30]
    drawn = [no_ops(seed) for seed in range(40)]
    assert len(set(drawn)) > 15
    assert set(drawn) <= set(range(1, 31))
    one, other = env.reset(seed=5)[0], env.reset(seed=5)[0]
    np.testing.assert_array_equal(one, other)


def test_resets_count_games_and_not_lives() -> None:
    seeds: list[int] = []

    def episode_seed(episode: int) -> int:
        seeds.append(episode)
        return episode

    env = make_environment("breakout", SETTINGS, training=True, seed=0, episode_seed=episode_seed)
    env.reset()
    play(env, drawn_actions(4, 600))
    games = len(seeds)
    assert games >= 2
    assert seeds == list(range(games))
    with pytest.raises(ValueError, match="needs a seed"):
        make_environment("breakout", SETTINGS, training=True, seed=0).reset()


def test_the_game_of_a_seed_depends_on_nothing_else() -> None:
    """Assault takes its chance from what the game before left in the console's memory."""
    fresh, used, going_on = (game_env("assault") for _ in range(3))
    actions = drawn_actions(fresh.num_actions, 200)
    fresh.reset(seed=5)
    wanted = play(fresh, actions)
    for env in (used, going_on):
        env.reset(seed=4)
        play(env, actions)
    used.reset(seed=5)
    assert play(used, actions) == wanted
    going_on._new_game(5)
    assert play(going_on, actions) != wanted, "training goes on with the console as it is"


def test_sticky_actions_repeat_a_quarter_of_the_frames() -> None:
    env = game_env("pong", protocol="atari100k_sticky")
    assert isinstance(env, AtariEnv)
    env.reset(seed=0)
    held: list[int] = []
    for number in range(8_000):
        env._held = 3 + number % 2
        env._act(4 - number % 2)
        held.append(env._held == 3 + number % 2)
    assert abs(np.mean(held) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 8_000)


def test_other_sizes() -> None:
    env = game_env("pong", image_size=36, frame_stack=2, frame_skip=2)
    obs, _ = env.reset()
    assert obs.shape == env.observation_space.shape == (2, 36, 36)
    assert env.observation_space.contains(env.step(1)[0])
    assert env.frame_rate == 30
    assert env.render().shape == (210, 160, 3)
    single = game_env("pong", frame_skip=1)
    single.reset()
    play(single, [0] * 20)


@pytest.mark.parametrize("action", [-1, 6])
def test_an_action_that_is_none_is_refused(action: int) -> None:
    env = game_env("pong")
    env.reset()
    with pytest.raises(ValueError, match="not in"):
        env.step(action)


# --- the emulators --------------------------------------------------------------------------------


def test_a_missing_rom_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"game=pong: ale-py has no ROM at .*pong\.bin; reinstall"
    ):
        game_env("pong")


@pytest.mark.parametrize("game", ["combat", "joust", "maze_craze", "warlords"])
def test_a_rom_that_the_emulator_cannot_play_is_refused(game: str) -> None:
    """It would end the process."""
    with pytest.raises(ConfigError, match=f"game={game}: ale-py .* cannot play .*; "):
        game_env(game)


def test_a_damaged_rom_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = rom_folder()
    assert folder is not None
    content = bytearray((folder / "pong.bin").read_bytes())
    content[100] ^= 1
    (tmp_path / "pong.bin").write_bytes(content)
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match=r"game=pong: .* cannot play .*pong\.bin; .*damaged"):
        game_env("pong")


def test_the_old_emulator_says_how_to_install_it() -> None:
    try:
        import atari_py  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(ConfigError, match=r"emulator=atari_py: the package is not installed; "):
            game_env("pong", emulator="atari_py")
        return
    pytest.skip("atari-py is installed; test_the_old_emulator_plays_the_same_game runs")


@pytest.mark.parametrize("game", ["pong", "breakout", "alien"])
def test_the_old_emulator_plays_the_same_game(game: str) -> None:
    pytest.importorskip("atari_py", reason="the opt-in emulator is not installed")
    old, new = game_env(game, emulator="atari_py"), game_env(game)
    other = game_env(game, emulator="atari_py")
    for env in (old, new, other):
        env.reset()
    actions = drawn_actions(new.num_actions, 700)
    assert play(old, actions[:400]) == play(new, actions[:400])
    assert other.load_state_dict(old.state_dict())
    assert play(other, actions[400:]) == play(old, actions[400:])
