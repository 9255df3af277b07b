"""What an encoder's frozen latents hold of the simulator's state; `probe.py` is the command."""
