"""The latent decoder against the published one (goldens) and its own invariants."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mlr_atari.objectives.decoder import DecoderSettings, LatentDecoder, sinusoidal_positions


def _decoder(**changes: Any) -> LatentDecoder:
    torch.manual_seed(0)
    keys: dict[str, Any] = {
        "depth": 2,
        "heads": 1,
        "width": None,
        "mlp_ratio": 2.0,
        "actions": True,
    }
    settings = {f"decoder_{key}": value for key, value in (keys | changes).items()}
    return LatentDecoder(DecoderSettings(**settings), latent_dim=12, action_dim=3, length=5)


@pytest.mark.parametrize("width", [50, 98, 3136])
def test_position_table(width: int, golden: Callable[[str], Any]) -> None:
    file = golden("positional_tables")
    table = sinusoidal_positions(128, width)
    rows = table[[0, 1, 7, 15, 127]]
    rows = rows[:, ::62] if width == 3136 else rows
    file.check(f"pe_{width}_rows0_1_7_15_127", rows, rtol=1e-5)
    stored = file[f"pe_{width}_stats"]
    assert table.double().sum() == pytest.approx(stored[0], rel=1e-6)
    assert table.double().abs().sum() == pytest.approx(stored[1], rel=1e-6)


def test_a_block_has_a_hidden_unit_at_least() -> None:
    assert _decoder(mlp_ratio=1e-3).blocks[0].mlp[0].out_features == 1


def test_last_block_computes_only_what_is_used() -> None:
    decoder = _decoder(depth=3, heads=4)
    latents, actions = torch.randn(2, 5, 12), torch.randn(2, 5, 3)
    tokens = decoder.embed(latents, actions)
    for block in decoder.blocks:
        tokens = block(tokens, tokens.shape[1])
    torch.testing.assert_close(decoder(latents, actions), tokens[:, :5])


def test_attention_equals_the_textbook() -> None:
    attention = _decoder(heads=3).blocks[0].attention
    tokens = torch.randn(2, 6, 12)
    query, (key, value) = attention.query(tokens), attention.key_value(tokens).chunk(2, -1)
    heads = []
    for h in range(3):
        part = slice(4 * h, 4 * h + 4)
        scores = torch.einsum("btd,bsd->bts", query[..., part], key[..., part]) / 4**0.5
        heads.append(torch.einsum("bts,bsd->btd", scores.softmax(-1), value[..., part]))
    expected = attention.output(torch.cat(heads, dim=-1))
    torch.testing.assert_close(attention(tokens, 6), expected)


def test_each_step_sees_its_own_position_and_action() -> None:
    decoder = _decoder(width=8)
    latents, actions = torch.randn(1, 4, 12), torch.randn(1, 4, 3)
    order = torch.tensor([2, 0, 3, 1])
    permuted = decoder(latents[:, order], actions[:, order])
    assert not torch.allclose(permuted, decoder(latents, actions)[:, order], atol=1e-3)
    # Without positions the set of steps has no order, but each keeps its pairing.
    decoder.positions.zero_()
    torch.testing.assert_close(
        decoder(latents[:, order], actions[:, order]), decoder(latents, actions)[:, order]
    )


def test_without_actions_they_change_nothing() -> None:
    decoder, latents = _decoder(actions=False), torch.randn(2, 4, 12)
    first, second = (decoder(latents, torch.randn(2, 4, 3)) for _ in range(2))
    assert torch.equal(first, second)
