"""What a linear map reads out of features: ridge regression, R² on held-out episodes, PCA.

N rows, D features, V variables, P penalties.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.bool_]

# Per row, for standardised features; which one is chosen by the validation episodes.
PENALTIES = tuple(10.0**power for power in range(-5, 4))
MIN_EPISODES = 5  # one to validate on, one to test on
_PICTURES = 1000  # that components are computed from, and at least one more than components
_BATCH = 256  # pictures at a time


def split_by_episode(episodes: NDArray[np.int64]) -> Rows:
    """Which rows are trained on, choose the penalty, and are scored, (3, N).

    These are the first 60 % of the episodes, the next 20 % and the last 20 %.

    Args: `episodes`: (N,), the episode of each row, at least `MIN_EPISODES` different ones.
    """
    numbers = np.unique(episodes)
    first, second = (numbers[int(share * len(numbers))] for share in (0.6, 0.8))
    train, test = episodes < first, episodes >= second
    return np.stack([train, ~train & ~test, test])


def readout(features: NDArray[np.floating], labels: Floats, split: Rows) -> Floats:
    """R² of each variable on the test rows, (V,); NaN for one that never changes.

    Each variable has the penalty that is best on the validation rows.

    Args: `features`: (N, D). `labels`: (N, V). `split`: as `split_by_episode` gives it.
    """
    train, validation, test = split
    inputs, targets = (_standardised(values, train) for values in (features, labels))
    weights = ridge(inputs[train], targets[train])
    guesses = inputs[validation] @ weights  # (P, rows, V)
    scores = np.stack([_r_squared(guess, targets[validation]) for guess in guesses])
    best = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=0)  # (V,)
    chosen = weights[best, :, np.arange(labels.shape[1])].T
    tested = _r_squared(inputs[test] @ chosen, targets[test])
    return np.where(_constant(labels[train]), np.nan, tested)


def ridge(inputs: Floats, targets: Floats) -> Floats:
    """Weights (P, D, V) that minimise squared error / N + penalty * squared weights, for each.

    Args: `inputs`: (N, D), mean 0. `targets`: (N, V), mean 0.
    """
    rows, width = inputs.shape
    if width <= rows:
        values, vectors = np.linalg.eigh(inputs.T @ inputs / rows)
        left, right = vectors, vectors.T @ (inputs.T @ targets) / rows
    else:  # the same by way of the rows, of which there are fewer
        values, vectors = np.linalg.eigh(inputs @ inputs.T / rows)
        left, right = inputs.T @ vectors, vectors.T @ targets / rows
    values = np.maximum(values, 0.0)[:, None]
    return np.stack([left @ (right / (values + penalty)) for penalty in PENALTIES])


def components(pictures: NDArray[np.uint8], train: Rows, count: int) -> NDArray[np.float32]:
    """Coordinates (N, C) of pictures (N, ...) along the principal components of training pictures.

    C is `count`, or less where there are too few pictures.
    """
    flat, rows = pictures.reshape(len(pictures), -1), np.flatnonzero(train)
    used = min(max(_PICTURES, count + 1), len(rows))
    few = flat[rows[np.linspace(0, len(rows) - 1, used).astype(np.int64)]].astype(np.float32)
    mean = few.mean(axis=0)
    centred = few - mean
    # By way of the pictures, of which there are far fewer than pixels; the largest come last.
    _, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64))
    directions = centred.T @ vectors[:, -min(count, used - 1) :].astype(np.float32)
    parts = (flat[start : start + _BATCH] for start in range(0, len(flat), _BATCH))
    return np.concatenate([(part.astype(np.float32) - mean) @ directions for part in parts])


def _r_squared(predicted: Floats, targets: Floats) -> Floats:
    """(V,), NaN for targets that are all 0; predicting the training mean, which is 0, scores 0."""
    error, spread = np.square(targets - predicted).sum(axis=0), np.square(targets).sum(axis=0)
    return 1.0 - np.divide(error, spread, out=np.full_like(error, np.nan), where=spread > 0)


def _constant(values: Floats) -> Rows:
    """Which columns of (N, V) change by no more than rounding, (V,)."""
    return np.asarray(values.std(axis=0) <= 1e-6 * (1e-3 + np.abs(values).max(axis=0)))


def _standardised(values: NDArray[np.floating], train: Rows) -> Floats:
    """Mean 0 and deviation 1 on the training rows; a constant column's deviation stays."""
    known = values[train].astype(np.float64)
    return (values - known.mean(axis=0)) / np.where(_constant(known), 1.0, known.std(axis=0))
