"""What the few-shot networks share: an embedding, a head that starts at zero, a norm mode."""

from __future__ import annotations

from torch import Tensor, nn

from metalearn_tut.models.norms import NORMS


def conv3x3(in_channels: int, out_channels: int, norm: str, slope: float = 0.0) -> nn.Conv2d:
    """A padded 3×3 convolution that ``norm`` will follow.

    A norm has its own shift, so the convolution has a bias only where there is none. There
    PyTorch's default initialization would also shrink the signal block after block, which
    Kaiming's (for a leaky ReLU of this ``slope``) does not.
    """
    if norm != "none":
        return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    nn.init.kaiming_normal_(conv.weight, a=slope)
    nn.init.zeros_(conv.bias)
    return conv


class FewShotNetwork(nn.Module):
    """An embedding and a linear head; subclasses build the layers of :meth:`embed`.

    The head starts at zero (uniform predictions), and a caller who passes parameters by
    name, as ``torch.func.functional_call`` does, may pass a head with another number of
    rows: the number of ways is free at test time.
    """

    def __init__(self, features: int, ways: int, norm: str) -> None:
        super().__init__()
        if ways < 1:
            raise ValueError(f"ways must be at least 1, got {ways}")
        self.ways, self._norm = ways, norm
        self.head = nn.Linear(features, ways)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def norm(self) -> str:
        """The norm mode, one of ``NORMS``: a result is only comparable within one mode.

        ``"batch"`` (transductive) and ``"support"`` (inductive) have the same parameters and may
        be set to each other.
        It says how query images are to be normalized; the caller acts on it by passing
        ``n_support``.
        """
        return self._norm

    @norm.setter
    def norm(self, norm: str) -> None:
        same_layers = {"batch", "support"}
        if norm not in NORMS or (norm != self._norm and {norm, self._norm} != same_layers):
            raise ValueError(
                f"norm {self._norm!r} cannot become {norm!r}: only 'batch' and 'support' share "
                "their layers; build a new network for another norm"
            )
        self._norm = norm

    def embed(self, x: Tensor, n_support: int | None = None) -> Tensor:
        """Features ``[B, features]`` of the images ``x``."""
        raise NotImplementedError(f"{type(self).__name__} must define embed(x, n_support)")

    def forward(self, x: Tensor, n_support: int | None = None) -> Tensor:
        """Logits ``[B, ways]`` of the images ``x``.

        Parameters
        ----------
        x : Tensor [B, C, H, W]
            Floating-point images.
        n_support : int, optional
            Batch normalization takes its statistics from the first ``n_support`` rows. By
            default from all rows. Networks with another norm read each image alone anyway.
        """
        return self.head(self.embed(x, n_support))
