"""MiniGrid's environments with observations that networks take: an example of an id for a wrapped environment.

    python guided_sac_discrete.py --env-id benchmark.probes.flat_minigrid:FlatMiniGrid-v0 \
        --env-kwargs '{"grid": "MiniGrid-Empty-5x5-v0"}' --supervisor none

MiniGrid's own have a mission in words, of no fixed length. What is left, picture and direction, the script flattens.

Docs: docs/compatibility.md
"""

import gymnasium as gym
import minigrid  # noqa: F401  (registers its environments)


def flat_minigrid(grid: str, render_mode: str | None = None) -> gym.Env:
    """A MiniGrid environment without its mission."""
    return gym.wrappers.FilterObservation(gym.make(grid, render_mode=render_mode), ["image", "direction"])


gym.register("FlatMiniGrid-v0", flat_minigrid)
