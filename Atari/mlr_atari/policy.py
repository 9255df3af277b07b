"""A trained policy by itself, and folders in which it travels.

    action = mlr_atari.load_policy("runs/.../seed_1")(obs)  # or a folder that was exported

An exported folder holds the weights (`policy.safetensors`, in whose header is what they are of), a
card for people (`README.md`) and the SHA-256 sums of both, and nothing else. Nothing that lies in
either kind of folder is run or imported, and neither replay, optimizers nor simulators are loaded.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from . import protocol
from .device import named_device
from .errors import ConfigError, StorageError
from .networks import PolicyNetwork, PolicySettings
from .run.checkpoint import agent_checkpoint
from .run.disk import Fields, escaped, fields, one_line, read_bytes
from .run.schema import check_device, construct

WEIGHTS, CARD, SUMS = "policy.safetensors", "README.md", "SHA256SUMS"
_MOST = 2**30  # bytes of a file
_DAMAGE = (SafetensorError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
_KEPT = ("protocol", "observation", "actions", "revision", "hardware", "versions")  # of run.json


class SavedPolicy:
    """Acts as in evaluations: on unaugmented observations, without exploration.

    Attributes:
        obs_shape: of an observation, (S*C, H, W): S frames, oldest first, channels before pixels.
        num_actions: A, numbers of an action, or actions to choose from.
        config: the run's configuration, nested plain values; as it was found.
        agent_step: how far it had been trained.
        facts: all that is known of it; of an exported one also `scores` and their `seed`.
    """

    def __init__(self, facts: Fields, network: PolicyNetwork, device: torch.device) -> None:
        self.facts, self.network, self.device = facts, network, device
        self.obs_shape = tuple(facts.get("run.observation", list))
        self.num_actions = facts.get("run.actions", int)
        self.config: Mapping[str, Any] = facts.content["config"]
        self.agent_step = facts.get("agent_step", int)

    @torch.no_grad()
    def __call__(
        self, obs: np.ndarray, generators: Sequence[np.random.Generator] | None = None
    ) -> np.ndarray:
        """uint8 (S*C, H, W), as the environment gives it -> an action; (N, S*C, H, W) -> N of them.

        On DMControl an action is float32 (A,) in [-1, 1], the range of the actuators; on Atari
        int64, its index.

        Args: `generators`: of each episode, for a protocol that now and then acts at random.

        Raises: ValueError: another shape or type.
        """
        obs = np.asarray(obs)
        if obs.dtype != np.uint8 or obs.ndim not in (3, 4) or obs.shape[-3:] != self.obs_shape:
            raise ValueError(
                f"obs is {obs.dtype} {obs.shape}; must be uint8 {self.obs_shape}, or (N, ...) of it"
            )
        batch = torch.from_numpy(np.array(obs)).view(-1, *self.obs_shape).to(self.device)
        actions: np.ndarray = self.network(batch, generators).cpu().numpy()
        return actions if obs.ndim == 4 else actions[0]

    def export(self, folder: Path, scores: Sequence[float], seed: int) -> None:
        """Write it, with its scores on `seed`'s episodes, to `folder`, of which `claim` is sure.

        Raises: StorageError: it cannot be written.
        """
        facts = {**self.facts.content, "scores": list(scores), "seed": seed}
        parts = {name: part.cpu().contiguous() for name, part in self.network.state_dict().items()}
        files = {WEIGHTS: save(parts, {"facts": json.dumps(facts)}), CARD: _card(facts).encode()}
        try:
            for name, content in {**files, SUMS: _sums(files)}.items():
                with (folder / name).open("xb") as file:  # nothing is written over
                    file.write(content)
        except OSError as error:
            raise StorageError(f"--export={folder}: cannot be written: {error}") from error


def load_policy(folder: str | Path, device: str = "auto") -> SavedPolicy:
    """The policy of a run's newest checkpoint, or of an exported folder.

    Args: `device`: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:<n>`, wherever it was
    trained.

    Raises:
        ConfigError: no such device; the folder is of neither kind or of the other benchmark, is
            damaged, or holds what it should not.
        CheckpointError: none of the run's checkpoints can be used. OSError: a file cannot be read.
    """
    path = Path(folder).expanduser()
    check_device(device)
    facts, weights = _exported(path) if is_exported(path) else _trained(path)
    try:
        agent = facts.content["config"]["agent"]
        names = [field.name for field in dataclasses.fields(PolicySettings) if field.name in agent]
        settings = construct(PolicySettings, {name: agent[name] for name in names}, "agent")
        channels, height, width = facts.get("run.observation", list)
        sizes = (channels, height, width), facts.get("run.actions", int)
        itemgetter("preset", "seed", "tag")(facts.content["config"])  # what cards show is there
        itemgetter("name")(agent)
        itemgetter("name")(facts.content["config"][protocol.TASK_KEY])
        itemgetter(*_KEPT, protocol.SIMULATOR)(facts.content["run"])
        with torch.device("meta"):  # which takes no memory, whatever sizes it names
            network = PolicyNetwork(settings, *sizes, facts.get("config.precision", str))
        if not is_exported(path):  # a checkpoint holds more than what acts
            weights = {name: weights[PolicyNetwork.part][name] for name in network.state_dict()}
        network.load_state_dict(weights, assign=True)
        for name, part in network.state_dict().items():
            if part.dtype != torch.float32 or not part.isfinite().all():
                raise ValueError(f"{name} must be float32 and finite")
    except (*_DAMAGE, RuntimeError, ConfigError) as error:
        raise ConfigError(f"{path}: no policy that can be loaded: {one_line(error)}") from error
    place = named_device(device)
    return SavedPolicy(facts, network.to(place), place)


def is_exported(folder: Path) -> bool:
    """Whether it is such a folder, rather than a run's."""
    return (folder / WEIGHTS).exists()


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration in a run's folder or an exported one, nested plain values.

    Raises: ConfigError: as `load_policy`.
    """
    if is_exported(folder):
        config = _exported(folder)[0].content.get("config")
    elif (folder / "config.yaml").is_file():
        config = fields(folder / "config.yaml").content
    else:
        raise ConfigError(f"{folder}: has no config.yaml; give the folder of a run")
    if not isinstance(config, dict) or protocol.TASK_KEY not in config:
        raise ConfigError(
            f"{folder}: is no run of {protocol.NAME}, for it names no {protocol.TASK_KEY}; "
            "use the other tree's script, or give another folder"
        )
    return config


def claim(folder: Path) -> None:
    """Make sure that a policy can be exported there. Raises: ConfigError: it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise FileExistsError("it is not empty")
    except OSError as error:
        raise ConfigError(f"--export={folder}: {error}; name a new folder") from error


def _trained(folder: Path) -> tuple[Fields, Any]:
    """What a run's folder says, and the state of its agent."""
    config, run = read_config(folder), fields(folder / "run.json")
    checkpoint = agent_checkpoint(folder, config)
    facts = {
        "config": {**config, "runs_dir": "runs"},  # not where it was on somebody's machine
        "run": {key: run.content.get(key) for key in (*_KEPT, protocol.SIMULATOR)},
        "agent_step": checkpoint.step,
    }
    return Fields(run.path, facts), checkpoint.items["agent"]


def _exported(folder: Path) -> tuple[Fields, Any]:
    """What the weights' header says, and the weights; all of the folder was checked before."""
    if sorted(entry.name for entry in folder.iterdir()) != sorted((WEIGHTS, CARD, SUMS)):
        raise ConfigError(f"{folder}: must hold {WEIGHTS}, {CARD}, {SUMS} and nothing else")
    try:
        content, card, sums = (read_bytes(folder / name, _MOST) for name in (WEIGHTS, CARD, SUMS))
        if _sums({WEIGHTS: content, CARD: card}) != sums:
            raise ValueError(f"{SUMS} are those of other files; copy the folder again")
        weights = load(content)  # which bounds the header
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        facts = dict(json.loads(header["__metadata__"]["facts"]))
    except (*_DAMAGE, OSError, RecursionError) as error:
        raise ConfigError(f"{folder}: is none of ours: {one_line(error)}") from error
    return Fields(folder / WEIGHTS, facts), weights


def _sums(files: Mapping[str, bytes]) -> bytes:
    """As `sha256sum` writes them."""
    lines = (f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    return "".join(lines).encode()


def _card(facts: Mapping[str, Any]) -> str:
    """What people should know of the policy, in Markdown."""
    from .report import statistics  # slow, and of no use to those who load

    config, run, scores = facts["config"], facts["run"], facts["scores"]
    task, agent = config[protocol.TASK_KEY]["name"], config["agent"]["name"]
    mean, low, high = statistics.interval(statistics.mean, [scores])
    rows = {
        protocol.TASK_KEY: task,
        "protocol": f"{run['protocol']}, preset {config['preset']}",
        "method": f"{agent}, seed {config['seed']}, after {facts['agent_step']:,} agent steps",
        protocol.METRIC: f"{mean:.1f} [{low:.1f}, {high:.1f}]: of this policy, mean of "
        f"{len(scores)} episodes (seed {facts['seed']}) and its 95 % interval",
        "observation": f"uint8 {tuple(run['observation'])}: frames, oldest first, channels first",
        **{key: run[key] for key in ("actions", protocol.SIMULATOR, *_KEPT[3:])},
    }
    texts = {name: escaped(one_line(value)) for name, value in rows.items()}
    table = "\n".join(f"| {name} | {text} |" for name, text in texts.items())
    return f"""# {escaped(one_line(agent))} on {texts[protocol.TASK_KEY]}

| | |
|---|---|
{table}

`mlr_atari.load_policy("this folder")(obs)` acts, `python evaluate.py THIS_FOLDER --out results`
plays such episodes again, and `sha256sum -c {SUMS}` checks the files. Weights and numbers only:
nothing in this folder is run.
"""
