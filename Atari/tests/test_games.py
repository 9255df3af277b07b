"""Names of games: every common spelling, typing errors, own games, and the files for one game."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mlr_atari import games
from mlr_atari.errors import ConfigError
from mlr_atari.names import is_own
from mlr_atari.protocol import run_path
from mlr_atari.settings import load

CONFIGS = Path(__file__).parents[1] / "configs" / "game"


def _camel(game: str) -> str:
    return "".join(part.capitalize() for part in game.split("_"))


@pytest.mark.parametrize("game", games.BENCHMARK_GAMES)
def test_every_spelling_is_the_same_game(game: str) -> None:
    camel = _camel(game)
    spellings = [game, camel, game.replace("_", "-"), game.upper(), game.replace("_", " ")]
    spellings += [f"ALE/{camel}-v5", f"{camel}NoFrameskip-v4", f"{camel}Deterministic-v0"]
    spellings += [f"{camel}-v0", f"{camel}-ramNoFrameskip-v4", f" {game} "]
    assert {games.canonical(spelling) for spelling in spellings} == {game}
    assert not is_own(game)


def test_the_benchmark_has_26_games_and_all_their_roms_are_installed() -> None:
    assert len(set(games.BENCHMARK_GAMES)) == 26
    folder = games.rom_folder()
    assert folder is not None
    assert all((folder / f"{game}.bin").is_file() for game in games.BENCHMARK_GAMES)


def test_other_roms_are_games_too() -> None:
    assert len(games.known_games()) > 26
    assert games.canonical("SpaceInvaders") == "space_invaders"
    assert games.canonical("Q*bert") == "qbert"
    assert games.canonical("Up'n Down") == "up_n_down"
    assert all(games.canonical(game) == game for game in games.known_games())


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("pogn", "pong"),
        ("kungfu_mastr", "kung_fu_master"),
        ("ALE/Breakuot-v5", "breakout"),
        ("zzzzzzzz", "alien, amidar"),
    ],
)
def test_what_is_no_game_gets_a_suggestion_or_the_list(typed: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"^game={typed}: .*{meant}"):
        games.canonical(typed)


def test_importing_the_names_loads_nothing_heavy() -> None:
    code = (
        "import sys; from mlr_atari import games; games.canonical('ALE/Pong-v5');"
        "print([name for name in ('torch', 'ale_py', 'gymnasium', 'cv2') if name in sys.modules])"
    )
    tree = Path(__file__).parents[1]
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "[]"


def test_files_are_named_after_games_and_hold_the_papers_weights() -> None:
    base = yaml.safe_load((CONFIGS / "base.yaml").read_text())
    assert base["mlr_weight"] == 1.0
    weights = {}
    for path in CONFIGS.glob("*.yaml"):
        if path.stem != "base":
            values = yaml.safe_load(path.read_text())
            assert values["name"] == path.stem == games.canonical(path.stem)
            assert set(values) - {"defaults"} <= set(base)
            weights[path.stem] = values.get("mlr_weight", 1.0)
    assert {game for game in weights if weights[game] != 1.0} == {"pong", "up_n_down"}
    assert weights["pong"] == weights["up_n_down"] == 5.0
    published = (load([f"game={game}", "agent=mlr_official"]) for game in ("pong", "up_n_down"))
    assert [cfg.agent.mlr_weight for cfg in published] == [1.0, 1.0]


@pytest.mark.parametrize(
    "game, folder",
    [
        ("ALE/Pong-v5", "pong"),
        ("pixel_game:SmallCatch-v0", "pixel_game-SmallCatch-v0"),
        ("my_package.games:Own/Catch-v0", "my_package.games-Own-Catch-v0"),
    ],
)
def test_a_run_of_any_game_has_one_folder_without_a_colon(game: str, folder: str) -> None:
    assert run_path(load([f"game={game}", "seed=3"])) == Path("runs", folder, "mlr", "seed_3")
