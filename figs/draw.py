"""Draws figs/framework.png and figs/masked_sequence.png from real observations of both benchmarks.

    python figs/draw.py        (or `make figures`)

Frames come from the trees' own environments and masks from their own cube masking, so the pictures
show what the agents are given. A few seconds on a CPU.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "DMControl"), str(HERE.parent / "Atari")]

from mlr_atari import environment as atari  # noqa: E402

from mlr_dmcontrol import environment as control  # noqa: E402
from mlr_dmcontrol.objectives.masking import CubeMasking, MaskSettings  # noqa: E402

STEPS = 16  # K, observations in a masked sequence
INK, GREY, PALE = "#20262e", "#66717d", "#f1f4f7"
ONLINE, MOMENTUM, ACTION, LOSS = "#2f6db5", "#4f8a5b", "#d9822b", "#b5403c"


# --- observations and masks ---------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """K observations of one benchmark (the newest frame of each stack) and their cube mask."""

    name: str
    frames: np.ndarray  # uint8 (K, H, W, 3)
    hidden: np.ndarray  # bool (K, H, W)
    patch: int  # pixels
    depth: int  # steps

    def rows(self) -> dict[str, np.ndarray]:
        """The pictures of the three rows of the masked sequence, uint8 (K, H, W, 3) each."""
        hidden = self.hidden[..., None]
        mask = np.where(hidden, 45, 225).astype(np.uint8).repeat(3, axis=-1)
        return {
            "observation": self.frames,
            "mask": mask,
            "masked": np.where(hidden, 0, self.frames),
        }


def masks(side: int, patch: int, depth: int, seed: int) -> np.ndarray:
    settings = MaskSettings(
        sequence_length=STEPS,
        mask_ratio=0.5,
        patch_size=patch,
        cube_depth=depth,
        mask_mode="cube",
        mask_per="batch",
        mask_level="pixel",
    )
    masking = CubeMasking(settings, side)
    grid = masking.draw(torch.Generator().manual_seed(seed), 1)
    return masking.pixels(grid).numpy()


def control_example(skip: int = 12) -> Example:
    """Cheetah under random actions, each kept for three agent steps so that it moves."""
    settings = control.EnvironmentSettings(
        image_size=100, frame_stack=3, action_repeat=4, camera_id=0, fast_render=False
    )
    env = control.PixelControlEnv("cheetah_run", settings)
    env.reset(seed=3)
    random = np.random.default_rng(0)
    frames, action = [], np.zeros(env.action_space.shape, np.float32)
    for step in range(skip + STEPS):
        if step % 3 == 0:
            action = random.uniform(-1, 1, action.shape).astype(np.float32)
        obs = env.step(action)[0]
        frames.append(obs[-3:].transpose(1, 2, 0))
    env.close()
    return Example("cheetah_run", np.stack(frames[skip:]), masks(100, 10, 8, seed=1), 10, 8)


def atari_example(skip: int = 75) -> Example:
    """Pong under random actions, from where the ball is in play."""
    settings = atari.EnvironmentSettings(
        protocol="atari100k", emulator="ale_py", image_size=84, frame_stack=4, frame_skip=4
    )
    env = atari.GameEnv("pong", settings, training=False, seed=1)
    env.reset(seed=1)
    random = np.random.default_rng(0)
    frames = [env.step(random.integers(env.action_space.n))[0][-1] for _ in range(skip + STEPS)]
    env.close()
    pictures = np.stack(frames[skip:])[..., None].repeat(3, axis=-1)
    return Example("pong", pictures, masks(84, 12, 8, seed=2), 12, 8)


# --- the masked sequence ------------------------------------------------------------------------


def draw_masked_sequence(examples: list[Example], path: Path) -> None:
    """Three rows of K pictures for each benchmark: observation, mask, masked observation."""
    size, gap, left, head, foot = 1.0, 0.05, 1.75, 0.8, 0.55
    height = len(examples) * (head + 3 * size + foot)
    ax = canvas(left + STEPS * size + 0.15, height, scale=0.66)
    top = height
    for example in examples:
        patches = example.frames.shape[1] // example.patch
        what = (
            f"{patches} × {patches} patches of {example.patch} pixels,  "
            f"cube depth {example.depth},  mask ratio 0.5"
        )
        ax.text(left, top - 0.24, example.name, fontsize=10.5, weight="bold", va="center")
        words(ax, left + 1.9, top - 0.24, what, INK, size=10.5, align="left")
        for start in range(0, STEPS, example.depth):
            bracket(ax, left + start * size, left + (start + example.depth) * size, top - head)
        for row, (label, pictures) in enumerate(example.rows().items()):
            base = top - head - (row + 1) * size
            words(ax, left - 0.15, base + size / 2, label, INK, size=10, align="right")
            for step, picture in enumerate(pictures):
                place(ax, picture, left + step * size + gap / 2, base + gap / 2, size - gap)
        for step in range(STEPS):
            words(ax, left + (step + 0.5) * size, base - 0.17, f"$o_{{{step + 1}}}$", size=9)
        top -= head + 3 * size + foot
    save(ax, path)


def bracket(ax: Axes, left: float, right: float, y: float) -> None:
    """A line over the steps that share one mask."""
    ax.plot([left + 0.06, right - 0.06], [y + 0.1] * 2, color=ONLINE, lw=1.6)
    words(ax, (left + right) / 2, y + 0.26, "one mask", ONLINE, size=8.5)


# --- the framework ------------------------------------------------------------------------------


def draw_framework(examples: list[Example], path: Path) -> None:
    """Masked and original sequences through the online and the momentum branch to the loss."""
    ax = canvas(172, 83, scale=0.078)
    draw_inputs(ax, examples)
    draw_online(ax)
    draw_momentum(ax)
    draw_loss(ax)
    save(ax, path)


TOP, BOTTOM = 54.0, 16.0  # heights of the two branches
MIDDLE = (TOP + BOTTOM) / 2


def draw_inputs(ax: Axes, examples: list[Example]) -> None:
    shown = (0, 3, 6, 9)  # both blocks of the mask
    for row, example in enumerate(examples):
        rows = example.rows()
        for base, kind in ((TOP, "masked"), (BOTTOM, "observation")):
            for column, step in enumerate(shown):
                x, y = 2 + 6.2 * column, base + 0.8 - 12.6 * row - 0.4 * column
                place(ax, rows[kind][step], x, y, 11)
    words(ax, 16.3, TOP + 14.6, "masked sequence", INK, size=11)
    words(ax, 16.3, 1.6, "observations $o_1 \\ldots o_K$", INK, size=11)
    arrow(ax, (16.3, BOTTOM + 12.6), (16.3, TOP - 14), INK)
    box(ax, 16.3, BOTTOM + 18.3, 20, 6, "cube mask", INK, fill="white")
    for y in (TOP, BOTTOM):
        arrow(ax, (33, y), (37, y), INK)
        box(ax, 41.5, y, 9, 8, "augment", GREY, fill=PALE, size=9.5)
        arrow(ax, (46, y), (50, y), INK)


def draw_online(ax: Axes) -> None:
    encoder(ax, 56.5, TOP, "encoder", ONLINE)
    arrow(ax, (62.5, TOP), (67, TOP), ONLINE)
    tokens(ax, 69.5, TOP, ["$\\tilde s_1$", "$a_1$", "⋮", "$\\tilde s_K$", "$a_K$"])
    words(ax, 69.5, TOP - 14, "+ positions", size=9)
    arrow(ax, (72, TOP), (76.5, TOP), ONLINE)
    box(ax, 87, TOP, 21, 24, "predictive\nlatent decoder", ONLINE, fill="#e8f0fa", lift=2)
    words(ax, 87, TOP - 6, "transformer over\nall $2K$ tokens", size=9)
    arrow(ax, (97.5, TOP), (101.5, TOP), ONLINE)
    tokens(ax, 104, TOP, ["$\\hat s_1$", "⋮", "$\\hat s_K$"])
    arrow(ax, (106.5, TOP), (111, TOP), ONLINE)
    box(ax, 119, TOP, 16, 9, "projection", ONLINE, fill="#e8f0fa", size=10)
    arrow(ax, (127, TOP), (130.5, TOP), ONLINE)
    box(ax, 138, TOP, 15, 9, "prediction", ONLINE, fill="#e8f0fa", size=10)
    box(ax, 56.5, 78, 29, 7, "RL agent: SAC · Rainbow", INK, fill="white", size=10.5)
    arrow(ax, (56.5, TOP + 8.2), (56.5, 74.3), INK)
    words(ax, 58.2, 69, "observations without mask", size=9, align="left")


def draw_momentum(ax: Axes) -> None:
    encoder(ax, 56.5, BOTTOM, "momentum\nencoder", MOMENTUM)
    arrow(ax, (62.5, BOTTOM), (101.5, BOTTOM), MOMENTUM)
    tokens(ax, 104, BOTTOM, ["$\\bar s_1$", "⋮", "$\\bar s_K$"], MOMENTUM)
    arrow(ax, (106.5, BOTTOM), (111, BOTTOM), MOMENTUM)
    box(ax, 119, BOTTOM, 16, 9, "momentum\nprojection", MOMENTUM, fill="#e9f3ea", size=10)
    for x, low, high in ((56.5, BOTTOM + 8.2, TOP - 8.2), (119, BOTTOM + 5, TOP - 5)):
        arrow(ax, (x, high), (x, low), MOMENTUM, dashed=True)
        words(ax, x + 1.5, MIDDLE, "moving average, $\\tau$", MOMENTUM, align="left")


def draw_loss(ax: Axes) -> None:
    formula = "$\\| n(y_t) - n(\\bar y_t) \\|^2$"
    box(ax, 160, MIDDLE, 21, 13, formula, LOSS, fill="#fbecea", size=12, lift=1.6)
    words(ax, 160, MIDDLE - 3.4, "mean over $t = 1 \\ldots K$", size=9)
    elbow(ax, (145.5, TOP), (160, MIDDLE + 6.5), ONLINE, "$y_t$")
    elbow(ax, (127, BOTTOM), (160, MIDDLE - 6.5), MOMENTUM, "$\\bar y_t$")
    for shift in (0, 1.2):  # the sign of a stopped gradient
        ax.plot([139 + shift, 140.4 + shift], [BOTTOM - 2.2, BOTTOM + 2.2], color=LOSS, lw=1.8)
    words(ax, 140.3, BOTTOM - 4.6, "no gradient", LOSS)


# --- parts of a drawing -------------------------------------------------------------------------


def canvas(width: float, height: float, scale: float) -> Axes:
    """Axes of the given extent; `scale` is inches a unit."""
    figure = plt.figure(figsize=(width * scale, height * scale), facecolor="white")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.axis("off")
    return ax


def place(ax: Axes, picture: np.ndarray, x: float, y: float, size: float) -> None:
    """A picture with its lower left corner at (x, y), sharp at every size."""
    extent = (x, x + size, y, y + size)
    ax.imshow(picture, extent=extent, interpolation="nearest", zorder=3, aspect="auto")
    ax.add_patch(Rectangle((x, y), size, size, fill=False, ec="white", lw=1.2, zorder=3))


def box(
    ax: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    text: str,
    color: str,
    *,
    fill: str,
    size: float = 11,
    lift: float = 0,
) -> None:
    """A rounded box centred at (x, y); its text sits `lift` above the centre."""
    corner = (x - width / 2, y - height / 2)
    style = "round,pad=0,rounding_size=1.4"
    ax.add_patch(
        FancyBboxPatch(corner, width, height, boxstyle=style, fc=fill, ec=color, lw=1.5, zorder=4)
    )
    words(ax, x, y + lift, text, INK, size=size)


def words(
    ax: Axes,
    x: float,
    y: float,
    text: str,
    color: str = GREY,
    *,
    size: float = 9.5,
    align: str = "center",
) -> None:
    ax.text(x, y, text, ha=align, va="center", fontsize=size, color=color, zorder=5)


def encoder(ax: Axes, x: float, y: float, text: str, color: str) -> None:
    """A trapezoid that narrows to the right."""
    corners = [(x - 6, y - 9.5), (x - 6, y + 9.5), (x + 6, y + 6.5), (x + 6, y - 6.5)]
    ax.add_patch(Polygon(corners, closed=True, fc=color, ec=color, lw=1.5, alpha=0.9, zorder=4))
    words(ax, x, y, text, "white")


def tokens(ax: Axes, x: float, y: float, names: list[str], color: str = ONLINE) -> None:
    """A column of latents, with the embedded actions in their own colour."""
    side, gap = 4.2, 0.7
    top = y + (len(names) * (side + gap) - gap) / 2
    for index, name in enumerate(names):
        base = top - index * (side + gap) - side
        if name == "⋮":
            words(ax, x, base + side / 2, name, size=13)
            continue
        fill = ACTION if name.startswith("$a") else color
        ax.add_patch(Rectangle((x - side / 2, base), side, side, fc=fill, ec="white", zorder=4))
        words(ax, x, base + side / 2, name, "white", size=10)


def arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    color: str,
    *,
    dashed: bool = False,
) -> None:
    """From `start` to `end`; only the shaft is dashed."""
    shaft = (0, (4, 2.5)) if dashed else "-"
    ax.plot([start[0], end[0]], [start[1], end[1]], color=color, lw=1.6, ls=shaft, zorder=2)
    length = np.hypot(end[0] - start[0], end[1] - start[1])
    head = (end[0] - (end[0] - start[0]) / length, end[1] - (end[1] - start[1]) / length)
    style = {"arrowstyle": "-|>", "mutation_scale": 12, "shrinkA": 0, "shrinkB": 0}
    ax.add_patch(FancyArrowPatch(head, end, color=color, lw=1.6, zorder=2, **style))


def elbow(
    ax: Axes, start: tuple[float, float], end: tuple[float, float], color: str, text: str
) -> None:
    """Right, then up or down to `end`, with the text over the corner."""
    ax.plot([start[0], end[0]], [start[1]] * 2, color=color, lw=1.6, zorder=2)
    arrow(ax, (end[0], start[1]), end, color)
    words(ax, end[0] - 6, start[1] + 2.6, text, INK, size=12)


def save(ax: Axes, path: Path) -> None:
    figure = ax.get_figure()
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)
    print(f"{path.name}: {path.stat().st_size // 1000} kB")


def main() -> None:
    examples = [control_example(), atari_example()]
    draw_framework(examples, HERE / "framework.png")
    draw_masked_sequence(examples, HERE / "masked_sequence.png")


if __name__ == "__main__":
    main()
