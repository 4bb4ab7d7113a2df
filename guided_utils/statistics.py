"""Running statistics of what a bonus sees."""

import torch


class RunningMeanStd:
    """Mean and standard deviation of all samples so far, as tensors of a sample's shape.

    They begin with one sample of zeros (differs from CleanRL: variance 1 at weight 1e-4), so that the first real one
    already has a deviation of its own size, whatever its unit.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device):
        self.count = 1
        self.mean = torch.zeros(shape, dtype=torch.float64, device=device)
        self.squares = torch.zeros(shape, dtype=torch.float64, device=device)  # Σ (x − mean)²

    def update(self, samples: torch.Tensor) -> None:
        """Take in samples (n, *shape) by the pairwise rule of Chan, Golub and LeVeque (1979)."""
        n, mean = len(samples), samples.double().mean(0)
        delta, total = mean - self.mean, self.count + n
        self.squares += (samples - mean).square().sum(0) + delta.square() * self.count * n / total
        self.mean += delta * n / total
        self.count = total

    @property
    def std(self) -> torch.Tensor:
        return (self.squares / self.count).sqrt().clamp_min(1e-8)

    def state_dict(self) -> dict[str, int | torch.Tensor]:
        """Plain data for a checkpoint."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, int | torch.Tensor]) -> None:
        """Go on from there."""
        for name, value in state.items():
            setattr(self, name, value.to(self.mean.device) if isinstance(value, torch.Tensor) else value)
