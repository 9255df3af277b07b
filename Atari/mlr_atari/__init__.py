"""Mask-based latent reconstruction (MLR): reinforcement learning from few pixels."""
