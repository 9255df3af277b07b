"""The two emulator packages behind one small interface; everything else is environment.py's."""

from __future__ import annotations

import hashlib
import importlib
from abc import ABC, abstractmethod
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ConfigError
from .games import rom_folder

NO_OP = 0


class Emulator(ABC):
    """One console with one game in it; 60 frames a second, no frame skipped, no sticky actions.

    Attributes:
        actions: the game's minimal action set, as the emulator's action numbers.
        screen_shape: rows and columns of a screen.
        package: name and version of what emulates.
        rom_md5: hex digest of the ROM.
    """

    actions: tuple[int, ...]
    screen_shape: tuple[int, int]
    package: str
    rom_md5: str
    _console: Any

    def act(self, action: int) -> float:
        """Emulate one frame with `action` held down; the reward it gave. Nothing after the end."""
        return float(self._console.act(action))

    def lives(self) -> int:
        """Lives left; 0 all along in a game that has none."""
        return int(self._console.lives())

    def game_over(self) -> bool:
        """Whether the game has ended."""
        return bool(self._console.game_over())

    def restart(self) -> None:
        """Begin a new game."""
        self._console.reset_game()

    def ram(self) -> np.ndarray:
        """The console's memory, uint8 (128,)."""
        return np.array(self._console.getRAM(), np.uint8)

    @abstractmethod
    def read_grey(self, screen: np.ndarray) -> None:
        """Write the screen's brightness into `screen`, uint8 of `screen_shape`."""

    @abstractmethod
    def rgb(self) -> np.ndarray:
        """The screen in colour, uint8 (rows, columns, 3)."""

    @abstractmethod
    def save(self) -> bytes:
        """All of the console's state, its random generator included, but not the screen."""

    @abstractmethod
    def load(self, state: bytes) -> None:
        """Continue from `state`; the screen shows it from the next frame on.

        Raises:
            ValueError: the state is not one of this emulator.
        """


class AlePy(Emulator):
    """ale-py: maintained, ROMs included."""

    def __init__(self, game: str, seed: int) -> None:
        ale = _package("ale_py", "pip install ale-py")
        rom = _existing_rom(game, rom_folder(), "ale-py", "reinstall ale-py or set ALE_ROMS_DIR")
        ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)
        if ale.ALEInterface.isSupportedROM(rom) is None:  # it would end the process
            raise ConfigError(
                f"game={game}: ale-py {ale.__version__} cannot play {rom}; choose another game, or "
                "reinstall ale-py if it should be able to: the file may be damaged"
            )
        self._console = ale.ALEInterface()
        self._console.setInt("random_seed", _console_seed(seed))
        self._console.setFloat("repeat_action_probability", 0.0)
        self._console.loadROM(rom)
        self._state_type = ale.ALEState
        self.actions = tuple(int(action.value) for action in self._console.getMinimalActionSet())
        self._numbered = {int(action.value): action for action in self._console.getLegalActionSet()}
        self.screen_shape = tuple(self._console.getScreenDims())
        self.package = f"ale-py {ale.__version__}"
        self.rom_md5 = hashlib.md5(rom.read_bytes(), usedforsecurity=False).hexdigest()

    def act(self, action: int) -> float:
        return float(self._console.act(self._numbered[action]))

    def read_grey(self, screen: np.ndarray) -> None:
        self._console.getScreenGrayscale(screen)

    def rgb(self) -> np.ndarray:
        return np.asarray(self._console.getScreenRGB())

    def save(self) -> bytes:
        return bytes(self._console.cloneState(include_rng=True).serialize())

    def load(self, state: bytes) -> None:
        try:
            self._console.restoreState(self._state_type(state))
        except (SystemError, RuntimeError) as error:
            raise ValueError(f"not a state of {self.package}: {error}") from error


class AtariPy(Emulator):
    """atari-py: no longer maintained; what the published scores were made with."""

    def __init__(self, game: str, seed: int) -> None:
        importer = f"python -m atari_py.import_roms {rom_folder() or '<folder of ROMs>'}"
        atari_py = _package(
            "atari_py",
            "pip install atari-py==0.2.9 (needs cmake 3, a C++ compiler and zlib), "
            f"then {importer}",
        )
        folder = Path(atari_py.__file__).parent / "atari_roms"
        rom = _existing_rom(game, folder, "atari-py", f"{importer} adds it")
        self._console = atari_py.ALEInterface()
        self._console.setInt(b"random_seed", _console_seed(seed))
        self._console.setFloat(b"repeat_action_probability", 0.0)
        self._console.loadROM(str(rom).encode())
        self.actions = tuple(int(action) for action in self._console.getMinimalActionSet())
        columns, rows = self._console.getScreenDims()
        self.screen_shape = (int(rows), int(columns))
        self.package = f"atari-py {version('atari-py')}"
        self.rom_md5 = hashlib.md5(rom.read_bytes(), usedforsecurity=False).hexdigest()

    def read_grey(self, screen: np.ndarray) -> None:
        self._console.getScreenGrayscale(screen[..., None])

    def rgb(self) -> np.ndarray:
        return np.asarray(self._console.getScreenRGB2())

    def save(self) -> bytes:
        state = self._console.cloneSystemState()
        saved = self._console.encodeState(state).tobytes()
        self._console.deleteState(state)
        return saved

    def load(self, state: bytes) -> None:
        decoded = self._console.decodeState(np.frombuffer(state, np.uint8).copy())
        self._console.restoreSystemState(decoded)
        self._console.deleteState(decoded)


EMULATORS: dict[str, type[AlePy] | type[AtariPy]] = {"ale_py": AlePy, "atari_py": AtariPy}


def _package(name: str, remedy: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigError(
            f"environment.emulator={name}: the package is not installed; {remedy}"
        ) from error


def _existing_rom(game: str, folder: Path | None, package: str, remedy: str) -> Path:
    # ale-py ends the process when a ROM is missing, so look first.
    rom = (folder or Path()) / f"{game}.bin"
    if not rom.is_file():
        raise ConfigError(f"game={game}: {package} has no ROM at {rom}; {remedy}")
    return rom


def _console_seed(seed: int) -> int:
    # 0 and -1 mean the time of day to one emulator or the other.
    return seed % (2**31 - 2) + 1
