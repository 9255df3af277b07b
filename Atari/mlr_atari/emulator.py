"""The two emulator packages behind one small interface; everything else is environment.py's."""

import hashlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ConfigError
from .games import rom_folder


class Emulator(ABC):
    """One console with one game in it; 60 frames a second, no frame skipped, no sticky actions.

    Attributes:
        console: the package's own, for what both packages call alike.
        actions: the game's minimal action set, as the emulator's action numbers.
    """

    def __init__(
        self, package: str, console: Any, rom: Path, seed: int, text: Callable[[str], Any]
    ) -> None:
        """Begin the game of `rom`; `text` makes of a string what the package takes for one."""
        self.package, self.console = package, console
        # 0 and -1 mean the time of day to one emulator or the other.
        console.setInt(text("random_seed"), seed % (2**31 - 2) + 1)
        console.setFloat(text("repeat_action_probability"), 0.0)
        console.loadROM(text(str(rom)))
        actions = console.getMinimalActionSet()
        self.actions = tuple(int(getattr(action, "value", action)) for action in actions)
        self.rom_md5 = hashlib.md5(rom.read_bytes(), usedforsecurity=False).hexdigest()

    @abstractmethod
    def read_grey(self, screen: np.ndarray) -> None:
        """Write the screen's brightness into `screen`, uint8 (rows, columns)."""

    @abstractmethod
    def rgb(self) -> np.ndarray:
        """The screen in colour, uint8 (rows, columns, 3)."""

    @abstractmethod
    def save(self) -> bytes:
        """All of the console's state, its random generator included, but not the screen."""

    @abstractmethod
    def load(self, state: bytes) -> None:
        """Continue from `state`, seen from the next frame on. Raises: ValueError: it is none."""


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
        super().__init__(f"ale-py {ale.__version__}", ale.ALEInterface(), rom, seed, str)
        self._state_type = ale.ALEState

    def read_grey(self, screen: np.ndarray) -> None:
        self.console.getScreenGrayscale(screen)

    def rgb(self) -> np.ndarray:
        return np.asarray(self.console.getScreenRGB())

    def save(self) -> bytes:
        return bytes(self.console.cloneState(include_rng=True).serialize())

    def load(self, state: bytes) -> None:
        try:
            self.console.restoreState(self._state_type(state))
        except (SystemError, RuntimeError) as error:
            raise ValueError(f"not a state of {self.package}: {error}") from error


class AtariPy(Emulator):
    """atari-py: no longer maintained; what the published scores were made with."""

    def __init__(self, game: str, seed: int) -> None:
        importer = f"python -m atari_py.import_roms {rom_folder() or '<folder of ROMs>'}"
        needs = "needs cmake 3, a C++ compiler and zlib"
        package = _package("atari_py", f"pip install atari-py==0.2.9 ({needs}), then {importer}")
        folder = Path(package.__file__).parent / "atari_roms"
        rom = _existing_rom(game, folder, "atari-py", f"{importer} adds it")
        name = f"atari-py {version('atari-py')}"
        super().__init__(name, package.ALEInterface(), rom, seed, str.encode)

    def read_grey(self, screen: np.ndarray) -> None:
        self.console.getScreenGrayscale(screen[..., None])

    def rgb(self) -> np.ndarray:
        return np.asarray(self.console.getScreenRGB2())

    def save(self) -> bytes:
        state = self.console.cloneSystemState()
        saved = self.console.encodeState(state).tobytes()
        self.console.deleteState(state)
        return saved

    def load(self, state: bytes) -> None:
        decoded = self.console.decodeState(np.frombuffer(state, np.uint8).copy())
        self.console.restoreSystemState(decoded)
        self.console.deleteState(decoded)


EMULATORS: dict[str, type[AlePy] | type[AtariPy]] = {"ale_py": AlePy, "atari_py": AtariPy}


def _package(name: str, remedy: str) -> Any:
    if find_spec(name) is None:
        raise ConfigError(f"environment.emulator={name}: the package is not installed; {remedy}")
    return importlib.import_module(name)


def _existing_rom(game: str, folder: Path | None, package: str, remedy: str) -> Path:
    # ale-py ends the process when a ROM is missing, so look first.
    rom = (folder or Path()) / f"{game}.bin"
    if not rom.is_file():
        raise ConfigError(f"game={game}: {package} has no ROM at {rom}; {remedy}")
    return rom
