"""MILA (arXiv 2405.16605) in PyTorch, with the official parameter names.

An image of any size is accepted: nothing depends on it but the table of rotations.
Drop path is given to the model as one factor per sample and residual branch, so that
a training step can be captured as a CUDA graph."""
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn

try:
    import depthwise
except ImportError:  # without Triton, as on most CPUs
    depthwise = None


@dataclass(frozen=True)
class Config:
    """The keys are those that block.ParseConfig reads."""
    embed_dim: int = 64
    depths: tuple = (2, 6, 4)
    num_heads: tuple = (2, 4, 8)
    num_classes: int = 200
    img_size: int = 64
    mlp_ratio: float = 3.0


def image(x, hw):
    """Tokens (B, N, C) as an image (B, C, H, W) in channels-last layout, without a copy."""
    return x.transpose(1, 2).unflatten(2, hw)


def tokens(x):
    return x.flatten(2).transpose(1, 2)


def padded(x, n):
    """Zeros on the right and below, to a multiple of n, as in the official detection and segmentation backbones."""
    h, w = x.shape[2:]
    return F.pad(x, (0, -w % n, 0, -h % n)) if h % n or w % n else x


@lru_cache
def rotations(h, w, c, device, dtype):
    """cos and sin (N, C/2) of 2-D RoPE: the first C/4 channel pairs turn with the row, the others with the column."""
    k = c // 4
    theta = 10000.0 ** (-torch.arange(k, dtype=torch.float64) / k)
    rows = (torch.arange(h)[:, None, None] * theta).expand(h, w, k)
    columns = (torch.arange(w)[None, :, None] * theta).expand(h, w, k)
    angle = torch.cat([rows, columns], -1).reshape(h * w, 2 * k)
    return angle.cos().to(device, dtype), angle.sin().to(device, dtype)


def rotate(x, cos, sin):
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


class LayerNorm(nn.LayerNorm):
    """LayerNorm that keeps the dtype of its input, also under autocast."""

    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class Depthwise(nn.Conv2d):
    """Depthwise 3x3 convolution from tokens to tokens, plus its input if `residual`."""

    def __init__(self, c, stride=1, residual=False):
        super().__init__(c, c, 3, stride, 1, groups=c)
        self.residual = residual

    def forward(self, x, hw):
        if depthwise and x.is_cuda:
            return depthwise.conv(x, self.weight, self.bias, *hw, self.stride[0], self.residual)
        y = tokens(super().forward(image(x, hw)))
        return x + y if self.residual else y


class ConvUnit(nn.Module):
    """Convolution [+ batch norm]; the activation is left to the caller."""

    def __init__(self, cin, cout, k, stride=1, bias=False, norm=True):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, k, stride, k // 2, bias=bias)
        self.norm = nn.BatchNorm2d(cout) if norm else nn.Identity()

    def forward(self, x):
        if self.conv.kernel_size == (1, 1):  # a matrix product, whose epilogue adds the bias
            x = F.linear(x.permute(0, 2, 3, 1), self.conv.weight.flatten(1), self.conv.bias).permute(0, 3, 1, 2)
        else:
            x = self.conv(x)
        return self.norm(x)


class Stem(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv1 = ConvUnit(3, c // 2, 3, 2)
        self.conv2 = nn.Sequential(ConvUnit(c // 2, c // 2, 3), ConvUnit(c // 2, c // 2, 3))
        self.conv3 = nn.Sequential(ConvUnit(c // 2, 4 * c, 3, 2), ConvUnit(4 * c, c, 1))

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = x + self.conv2[1](F.relu(self.conv2[0](x)))
        return self.conv3[1](F.relu(self.conv3[0](x)))


class Downsample(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv = nn.Sequential(ConvUnit(c, 8 * c, 1, bias=True, norm=False), nn.ModuleDict({"conv": Depthwise(8 * c, 2)}),
                                  ConvUnit(8 * c, 2 * c, 1, bias=True))

    def forward(self, x):
        x = padded(x, 2)
        h, w = x.shape[2:]
        x = tokens(F.relu(self.conv[0](x)))
        x = F.relu(self.conv[1]["conv"](x, (h, w)))
        return self.conv[2](image(x, (h // 2, w // 2)))


class Attention(nn.Module):
    """Linear attention with RoPE and the local position encoding LePE."""

    def __init__(self, c, heads):
        super().__init__()
        self.heads = heads
        self.qk, self.lepe = nn.Linear(c, 2 * c), Depthwise(c)

    def forward(self, v, hw, cos, sin):
        b, n, c = v.shape
        split = lambda t: t.view(b, n, self.heads, -1).transpose(1, 2)
        q, k = (F.elu(self.qk(v)) + 1).chunk(2, -1)
        norm = (q * k.mean(1, keepdim=True)).view(b, n, self.heads, -1).sum(-1, keepdim=True) + 1e-6
        state = split(rotate(k, cos, sin)).transpose(2, 3) @ split(v) * (1 / n)
        y = (split(rotate(q, cos, sin)) @ state).transpose(1, 2) * (1 / norm).to(v.dtype)
        return y.flatten(2) + self.lepe(v, hw)


class MLP(nn.Module):
    def __init__(self, c, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(c, hidden), nn.Linear(hidden, c)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, c, heads, hidden):
        super().__init__()
        self.cpe1, self.norm1 = Depthwise(c, residual=True), LayerNorm(c)
        self.in_proj, self.act_proj = nn.Linear(c, c), nn.Linear(c, c)
        self.dwc, self.attn, self.out_proj = Depthwise(c), Attention(c, heads), nn.Linear(c, c)
        self.cpe2, self.norm2, self.mlp = Depthwise(c, residual=True), LayerNorm(c), MLP(c, hidden)

    def forward(self, x, hw, cos, sin, keep):
        """keep (2, B, 1, 1) scales the two residual branches: 1, or by drop path 0 or 1/(1-p)."""
        x = self.cpe1(x, hw)
        u = self.norm1(x)
        y = self.attn(F.silu(self.dwc(self.in_proj(u), hw)), hw, cos, sin)
        x = x + self.out_proj(y * F.silu(self.act_proj(u))) * keep[0]
        x = self.cpe2(x, hw)
        return x + self.mlp(self.norm2(x)) * keep[1]


class Stage(nn.Module):
    def __init__(self, c, depth, heads, hidden, last):
        super().__init__()
        self.blocks = nn.ModuleList(Block(c, heads, hidden) for _ in range(depth))
        self.downsample = nn.Identity() if last else Downsample(c)

    def forward(self, x, keep):
        """x (B, C, H, W); keep (2 depth, B, 1, 1)."""
        hw = tuple(x.shape[2:])
        t = tokens(x)
        cos, sin = rotations(*hw, t.shape[2], t.device, t.dtype)
        for i, block in enumerate(self.blocks):
            t = block(t, hw, cos, sin, keep[2 * i:2 * i + 2])
        return self.downsample(image(t, hw))


class MILA(nn.Module):
    def __init__(self, config, drop_path=0.0):
        super().__init__()
        self.config = config
        c, last = config.embed_dim, len(config.depths) - 1
        self.patch_embed = Stem(c)
        self.layers = nn.ModuleList(Stage(c << i, d, config.num_heads[i], int((c << i) * config.mlp_ratio), i == last)
                                    for i, d in enumerate(config.depths))
        self.norm, self.head = LayerNorm(c << last), nn.Linear(c << last, config.num_classes)
        blocks = sum(config.depths)
        self.register_buffer("drop", torch.linspace(0, drop_path, blocks).repeat_interleave(2)[:, None, None, None],
                             persistent=False)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.trunc_normal_(m.weight, std=0.02)
                nn.init.zeros_(m.bias)

    def forward(self, x):
        x = self.patch_embed(padded(x, 4))
        if self.training:
            keep = (torch.rand(len(self.drop), len(x), 1, 1, device=x.device) >= self.drop) / (1 - self.drop)
        else:
            keep = torch.ones_like(self.drop)
        for stage, part in zip(self.layers, keep.to(x.dtype).split([2 * d for d in self.config.depths])):
            x = stage(x, part)
        return self.head(self.norm(tokens(x)).mean(1))
