"""The latent decoder against the published one (goldens) and its own invariants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mlr_atari.errors import ConfigError
from mlr_atari.objectives.decoder import LatentDecoder, sinusoidal_positions


def _decoder(**changes: Any) -> LatentDecoder:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"latent_dim": 12, "action_dim": 3, "depth": 2}
    return LatentDecoder(**(settings | changes))


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


def test_last_block_computes_only_what_is_used() -> None:
    decoder = _decoder(depth=3, num_heads=4)
    latents, actions = torch.randn(2, 5, 12), torch.randn(2, 5, 3)
    tokens = decoder.embed(latents, actions)
    for block in decoder.blocks:
        tokens = block(tokens, tokens.shape[1])
    torch.testing.assert_close(decoder(latents, actions), tokens[:, :5])


def test_attention_equals_the_textbook() -> None:
    attention = _decoder(num_heads=3).blocks[0].attention
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
    decoder = _decoder()
    latents, actions = torch.randn(1, 4, 12), torch.randn(1, 4, 3)
    order = torch.tensor([2, 0, 3, 1])
    permuted = decoder(latents[:, order], actions[:, order])
    assert not torch.allclose(permuted, decoder(latents, actions)[:, order], atol=1e-3)
    # Without positions the set of steps has no order, but each keeps its pairing.
    decoder.positions.zero_()
    torch.testing.assert_close(
        decoder(latents[:, order], actions[:, order]), decoder(latents, actions)[:, order]
    )


def test_width_adds_one_map_in_and_one_out() -> None:
    names = set(dict(_decoder().named_parameters()))
    narrow = _decoder(width=8)
    added = set(dict(narrow.named_parameters())) - names
    assert added == {"narrow.weight", "narrow.bias", "widen.weight", "widen.bias"}
    assert narrow(torch.randn(2, 4, 12), torch.randn(2, 4, 3)).shape == (2, 4, 12)


def test_without_actions_they_change_nothing() -> None:
    decoder = _decoder(use_actions=False)
    latents = torch.randn(2, 4, 12)
    assert torch.equal(
        decoder(latents, torch.randn(2, 4, 3)), decoder(latents, torch.randn(2, 4, 3))
    )
    assert not any("action" in name for name, _ in decoder.named_parameters())


def test_positions_are_not_saved_and_wrong_lengths_are_refused() -> None:
    decoder = _decoder(max_length=4)
    assert not any("positions" in name for name in decoder.state_dict())
    with pytest.raises(ValueError, match="max_length"):
        decoder(torch.randn(1, 5, 12), torch.randn(1, 5, 3))
    with pytest.raises(ValueError, match="actions"):
        decoder(torch.randn(1, 4, 12), torch.randn(1, 3, 3))
    with pytest.raises(ConfigError, match=r"agent\.decoder_heads=5: "):
        _decoder(num_heads=5)
