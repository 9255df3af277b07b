"""Games: the published code's frames, the benchmark's rules, exact restoring, own ones."""

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
import torch
import yaml
from record_trajectories import FILE, SETTINGS, STEPS, drawn_actions, fingerprint, game_env, play

from mlr_atari import games
from mlr_atari.environment import AtariGame, GameEnv
from mlr_atari.errors import ConfigError
from mlr_atari.games import BENCHMARK_GAMES, rom_folder
from mlr_atari.settings import load

CATCH = "pixel_game:Catch-v0"
ODD = "odd_environments:Odd-v0"


def begun(game: str, **changes: Any) -> GameEnv:
    env = game_env(game, **changes)
    env.reset()
    return env


# --- the published code's frames ------------------------------------------------------------------


def _crc(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def _seed_with_no_ops(count: int) -> int:
    """A seed whose game begins with `count` no-ops."""
    draws = (np.random.default_rng(seed).integers(1, 30, endpoint=True) for seed in range(1000))
    return next(seed for seed, drawn in enumerate(draws) if drawn == count)


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
    env = GameEnv(game, replace(SETTINGS, max_steps=max_steps), training=training, seed=0)
    assert list(env.emulator.actions) == stored[f"{run}/action_set"].tolist()
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


@pytest.mark.parametrize("steps", [STEPS[0], pytest.param(STEPS[-1], marks=pytest.mark.soak)])
@pytest.mark.parametrize("game", BENCHMARK_GAMES)
def test_games_are_played_as_recorded(game: str, steps: int) -> None:
    recorded = json.loads(FILE.read_text())
    stored, found = recorded["games"][game], fingerprint(game, steps)
    stored["digest"] = {count: stored["digest"][count] for count in found["digest"]}
    assert found == stored, (
        f"{game} is not played as it was recorded (opencv {recorded['opencv']}, now "
        f"{cv2.__version__}). If emulator, ROM or opencv were changed on purpose, record it "
        "anew with tests/record_trajectories.py and say why in the commit."
    )


# --- the benchmark's rules ------------------------------------------------------------------------


def test_observations_begin_with_blank_frames_and_are_copies() -> None:
    env = game_env("breakout")
    first, info = env.reset()
    assert not first[:3].any() and first[3].any()
    shown = {"raw_reward": 0.0, "score": 0.0, "game_steps": 0, "lives": 5}
    assert info == shown | {"life_lost": False, "game_over": False}
    kept = first.copy()
    second = env.step(0)[0]
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(second[2:], [first[3], env.frame])
    assert not second[:2].any()


def test_a_lost_life_ends_a_training_episode_and_not_the_game() -> None:
    env = begun("breakout")
    episodes = 0
    for step, action in enumerate(drawn_actions(4, 9000), 1):
        obs, _, terminated, truncated, info = env.step(action)
        assert info["game_steps"] == step and not truncated
        if not terminated:
            continue
        episodes += 1
        assert info["life_lost"] != info["game_over"]
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(0)
        again, info = env.reset()
        if info["game_steps"] == 0:
            break
        assert not obs[:3].any(), "the next life's stack begins with blanks"
        np.testing.assert_array_equal(again, obs)
        assert info["lives"] == 5 - episodes
    assert (episodes, info["lives"]) == (5, 5)


@pytest.mark.parametrize("protocol", ["atari100k", "atari100k_sticky"])
def test_evaluation_and_the_sticky_protocol_play_whole_games(protocol: str) -> None:
    env = begun("breakout", training=protocol == "atari100k_sticky", protocol=protocol)
    lost, score = 0, 0.0
    for action in drawn_actions(4, 9000):
        _, reward, terminated, _, info = env.step(action)
        lost, score = lost + info["life_lost"], score + info["raw_reward"]
        assert reward == (np.sign(info["raw_reward"]) if env.training else info["raw_reward"])
        assert (terminated, score) == (info["game_over"], info["score"])
        if terminated:
            break
    assert (lost, info["lives"]) == (4, 0)


def test_a_life_lost_at_the_cap_ends_the_game_too() -> None:
    long, actions = game_env("breakout"), drawn_actions(4, 300)
    long.reset(seed=0)
    cap = next(number for number, action in enumerate(actions, 1) if long.step(action)[2])
    env = game_env("breakout", max_steps=cap)
    env.reset(seed=0)
    for action in actions[:cap]:
        _, _, terminated, truncated, info = env.step(action)
    assert (terminated, truncated, info["life_lost"], info["game_over"]) == (True,) * 4
    assert env.reset(seed=0)[1]["game_steps"] == 0


def test_resets_count_games_and_not_lives() -> None:
    seeds: list[int] = []
    env = GameEnv(
        "breakout",
        SETTINGS,
        training=True,
        seed=0,
        episode_seed=lambda episode: seeds.append(episode) or episode,  # type: ignore[func-returns-value]
    )
    env.reset()
    play(env, drawn_actions(4, 600))
    assert seeds == list(range(len(seeds))) and len(seeds) >= 2
    env.reset()  # before its end
    assert len(seeds) == seeds[-1] + 1 > 2


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
    game = begun("pong", protocol="atari100k_sticky").simulator
    assert isinstance(game, AtariGame)
    repeated = 0
    for number in range(8_000):
        game._held = 3 + number % 2
        game._act(4 - number % 2)
        repeated += game._held == 3 + number % 2
    assert abs(repeated / 8_000 - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 8_000)


def test_other_sizes() -> None:
    env = begun("pong", image_size=36, frame_stack=2, frame_skip=2)
    assert env.observation_space.contains(env.step(1)[0])
    assert (env.obs_shape, env.frame_rate) == ((2, 36, 36), 30)
    assert env.render().shape == (210, 160, 3)
    play(begun("pong", frame_skip=1), [0] * 20)
    for action in (-1, 6):
        with pytest.raises(ValueError, match="not in"):
            env.step(action)


# --- the emulators --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damaged, said",
    [(False, "ale-py has no ROM at .*; reinstall"), (True, "cannot play .*damaged")],
)
def test_a_missing_or_damaged_rom_is_refused(
    damaged: bool, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It would end the process."""
    folder = rom_folder()
    assert folder is not None
    if damaged:
        content = (folder / "pong.bin").read_bytes()
        (tmp_path / "pong.bin").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match=f"game=pong: .*{said}"):
        game_env("pong")


@pytest.mark.parametrize("game", ["pong", "breakout", "alien"])
def test_the_old_emulator_plays_the_same_game_or_says_how_to_install_it(game: str) -> None:
    try:
        import atari_py  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(ConfigError, match=r"emulator=atari_py: the package is not installed; "):
            game_env(game, emulator="atari_py")
        return
    old, other = (begun(game, emulator="atari_py") for _ in range(2))
    new = begun(game)
    actions = drawn_actions(new.num_actions, 700)
    assert play(old, actions[:400]) == play(new, actions[:400])
    assert other.load_state_dict(old.state_dict())
    assert play(other, actions[400:]) == play(old, actions[400:])


# --- restoring ------------------------------------------------------------------------------------

FEW = ("breakout", "qbert", CATCH)


@pytest.mark.parametrize("protocol", ["atari100k", "atari100k_sticky"])
@pytest.mark.parametrize(
    "game", [*FEW, *(pytest.param(game, marks=pytest.mark.soak) for game in BENCHMARK_GAMES)]
)
def test_a_saved_game_goes_on_as_it_would_have(game: str, protocol: str, tmp_path: Path) -> None:
    env, other = (begun(game, protocol=protocol) for _ in range(2))
    actions = drawn_actions(env.num_actions, 700)
    play(other, actions[:50])  # somewhere else
    for start in range(0, 700, 100):
        torch.save(env.state_dict(), tmp_path / "env.pt")
        assert other.load_state_dict(torch.load(tmp_path / "env.pt", weights_only=True))
        assert other.state_dict() == env.state_dict()
        piece = actions[start : start + 100]
        assert play(other, piece) == play(env, piece)


@pytest.mark.parametrize("moment", ["life_lost", "game_over"])
def test_a_game_saved_before_a_reset_goes_on(moment: str) -> None:
    env, other = begun("breakout"), begun("breakout")
    for action in drawn_actions(4, 2000):
        _, _, terminated, _, info = env.step(action)
        if info[moment]:
            break
        if terminated:
            env.reset()
    assert other.load_state_dict(env.state_dict())
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])
    assert play(env, drawn_actions(4, 60)) == play(other, drawn_actions(4, 60))


def test_a_state_that_is_not_the_games_own_is_noticed() -> None:
    env = begun("pong")
    play(env, [0, 1, 2])
    state = env.state_dict()
    torn = {**state, "before": state["before"][:5000]}
    reached = {**state["reached"], "snapshot": state["before"]}
    for wrong in (torn, {**state, "seed": state["seed"] + 1}, {**state, "reached": reached}):
        assert not env.load_state_dict(wrong)
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(0)
        assert env.reset()[1]["game_steps"] == 0
    assert env.load_state_dict(state)


# --- own games ------------------------------------------------------------------------------------


def test_an_own_game_keeps_the_rules() -> None:
    env = game_env(CATCH, image_size=40, frame_skip=1)
    obs, info = env.reset()
    assert set(np.unique(obs[-1])) == {0, 128, 255}, "small pictures stay sharp"
    lost = steps = 0
    while not info["game_over"]:
        obs, reward, terminated, truncated, info = env.step(0)
        steps += 1
        lost += info["life_lost"]
        assert reward == np.sign(info["raw_reward"]) and not truncated
        assert terminated == (info["life_lost"] or info["game_over"])
        if info["life_lost"]:
            assert not obs[:3].any()
            env.reset()
    assert info["game_steps"] == steps
    assert lost == 2 or info["score"] > 4
    assert env.render().shape == (10, 10, 3)


@pytest.mark.parametrize("shape", [(1, 200, 3), (400, 10, 3), (100, 90, 3)])
def test_no_pixel_is_left_out(shape: tuple[int, ...]) -> None:
    """Bright lines, of which a resize by the nearest pixel would drop some or all."""
    space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
    env = game_env(ODD, training=False, image_size=36, kwargs={"space": space})
    picture = np.zeros(shape, np.uint8)
    picture[::2, ::5] = 200
    env.simulator._look(picture)  # type: ignore[union-attr]
    frame = env.simulator.frame()
    assert (frame.shape, env.render().shape) == ((36, 36), shape)
    assert frame.mean() == pytest.approx(picture.mean(), rel=0.25)


def test_steps_are_held_and_actions_begin_where_the_space_does() -> None:
    env = begun(ODD, frame_skip=5)
    _, reward, terminated, truncated, info = env.step(0)
    assert (reward, info["raw_reward"], terminated, truncated) == (1.0, 5.0, False, False)
    assert env.simulator._env.unwrapped.taken[-5:] == [-1] * 5  # type: ignore[union-attr]
    env.step(1)
    assert env.step(2)[2:4] == (True, False)
    env.close()


def test_a_game_that_is_not_reproducible_is_noticed() -> None:
    env, other = (begun(ODD, frame_skip=1, kwargs={"fault": "unfair"}) for _ in range(2))
    play(env, [0, 1, 1])
    assert not other.load_state_dict(env.state_dict())
    assert other.game_over


def test_lives_that_are_no_number_are_refused() -> None:
    with pytest.raises(ConfigError, match="lives.*'three'"):
        begun(ODD, kwargs={"fault": "strange lives"}).step(0)


# --- names ----------------------------------------------------------------------------------------


def test_every_spelling_is_the_same_game() -> None:
    assert len(set(BENCHMARK_GAMES)) == 26
    for game in games.known_games():
        camel = "".join(part.capitalize() for part in game.split("_"))
        spellings = {game, camel, game.upper(), f" {game.replace('_', '-')} ", f"ALE/{camel}-v5"}
        spellings |= {f"{camel}NoFrameskip-v4", f"{camel}-ramDeterministic-v0"}
        assert {games.canonical(spelling) for spelling in spellings} == {game}


def test_games_are_those_of_the_installed_roms() -> None:
    folder = rom_folder()
    assert folder is not None
    assert {path.stem for path in folder.glob("*.bin")} == {*games.known_games()}
    assert games.canonical("Space Invaders") == "space_invaders"


def test_a_games_file_holds_only_what_differs() -> None:
    paths = (Path(__file__).parents[1] / "configs" / "game").glob("*.yaml")
    files = {path.stem: yaml.safe_load(path.read_text()) for path in paths}
    base = files.pop("base")
    for name, own in files.items():
        assert own.pop("defaults") == ["base", "_self_"] and own.pop("name") == name
        assert own.items() - base.items() == own.items() and set(own) <= set(base)
        assert games.canonical(name) == name
    assert load(["game=pong", "agent=mlr_official"]).agent.mlr_weight == 1.0  # published code's
