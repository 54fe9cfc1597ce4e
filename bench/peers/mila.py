"""MILA (arXiv 2405.16605) and its parts in PyTorch, with generated weights.

build(ITEM) gives a module and its inputs; the items are model/t, model/s, model/b,
gemm/M/N/K, dwconv/SIDE/C and linattn/SIDE/C. The parameters have the names of the
official checkpoints, and model weights and images are those of block.Synthetic and
block.Generate. RoPE is in real arithmetic, so that everything traces and exports."""
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

CONFIGS = {  # embedding, depths, heads, seed of the weights
    "t": (64, (2, 4, 8, 4), (2, 4, 8, 16), 11),
    "s": (64, (3, 6, 21, 6), (2, 4, 8, 16), 12),
    "b": (96, (3, 6, 21, 6), (3, 6, 12, 24), 13),
}


def dw3(c):
    return nn.Conv2d(c, c, 3, 1, 1, groups=c)


def image(x, side):
    """tokens [B,N,C] -> image [B,C,H,W]"""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], side, side)


def tokens(x):
    return x.flatten(2).transpose(1, 2)


class ConvUnit(nn.Module):
    """Convolution [+ batch norm]; the activation is left to the caller."""

    def __init__(self, cin, cout, k, stride=1, groups=1, bias=True, norm=True):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, k, stride, k // 2, groups=groups, bias=bias)
        self.norm = nn.BatchNorm2d(cout) if norm else nn.Identity()

    def forward(self, x):
        return self.norm(self.conv(x))


class Stem(nn.Module):
    def __init__(self, c):
        super().__init__()
        unit = lambda cin, cout, k, stride=1: ConvUnit(cin, cout, k, stride, bias=False)
        self.conv1 = unit(3, c // 2, 3, 2)
        self.conv2 = nn.Sequential(unit(c // 2, c // 2, 3), unit(c // 2, c // 2, 3))
        self.conv3 = nn.Sequential(unit(c // 2, 4 * c, 3, 2), unit(4 * c, c, 1))

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = x + self.conv2[1](F.relu(self.conv2[0](x)))
        return tokens(self.conv3[1](F.relu(self.conv3[0](x))))


class Merge(nn.Module):
    def __init__(self, side, c):
        super().__init__()
        self.side = side
        self.conv = nn.Sequential(ConvUnit(c, 8 * c, 1, norm=False),
                                  ConvUnit(8 * c, 8 * c, 3, 2, groups=8 * c, norm=False), ConvUnit(8 * c, 2 * c, 1))

    def forward(self, x):
        x = image(x, self.side)
        return tokens(self.conv[2](F.relu(self.conv[1](F.relu(self.conv[0](x))))))


class Core(nn.Module):
    """Linear attention after the feature map: RoPE, key-value state, readout, normaliser."""

    def __init__(self, side, c, heads):
        super().__init__()
        self.heads = heads
        k = c // 4
        theta = 10000.0 ** (-torch.arange(k) / k)
        pos = torch.arange(side)
        angle = torch.cat([(pos[:, None, None] * theta).expand(side, side, k), (pos[None, :, None] * theta).expand(side, side, k)], -1)
        self.register_buffer("cos", angle.cos().reshape(side * side, 2 * k), persistent=False)
        self.register_buffer("sin", angle.sin().reshape(side * side, 2 * k), persistent=False)

    def rope(self, x):
        even, odd = x.reshape(*x.shape[:2], -1, 2).unbind(-1)
        return torch.stack([even * self.cos - odd * self.sin, even * self.sin + odd * self.cos], -1).reshape(x.shape)

    def forward(self, q, k, v):
        b, n, c = v.shape
        split = lambda t: t.reshape(b, n, self.heads, -1).transpose(1, 2)
        z = split(q) @ split(k).mean(2, keepdim=True).transpose(2, 3) + 1e-6
        kv = (split(self.rope(k)).transpose(2, 3) * n**-0.5) @ (split(v) * n**-0.5)
        return (split(self.rope(q)) @ kv / z).transpose(1, 2).reshape(b, n, c)


class Attention(nn.Module):
    def __init__(self, side, c, heads):
        super().__init__()
        self.side = side
        self.qk, self.lepe, self.core = nn.Linear(c, 2 * c), dw3(c), Core(side, c, heads)

    def forward(self, v):
        q, k = (F.elu(self.qk(v)) + 1).chunk(2, -1)
        return self.core(q, k, v) + tokens(self.lepe(image(v, self.side)))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, side, c, heads):
        super().__init__()
        self.side = side
        self.cpe1, self.norm1 = dw3(c), nn.LayerNorm(c)
        self.in_proj, self.act_proj = nn.Linear(c, c), nn.Linear(c, c)
        self.dwc, self.attn, self.out_proj = dw3(c), Attention(side, c, heads), nn.Linear(c, c)
        self.cpe2, self.norm2, self.mlp = dw3(c), nn.LayerNorm(c), MLP(c)

    def forward(self, x):
        local = lambda conv, x: tokens(conv(image(x, self.side)))
        x = x + local(self.cpe1, x)
        u = self.norm1(x)
        y = self.attn(F.silu(local(self.dwc, self.in_proj(u))))
        x = x + self.out_proj(y * F.silu(self.act_proj(u)))
        x = x + local(self.cpe2, x)
        return x + self.mlp(self.norm2(x))


class Stage(nn.Module):
    def __init__(self, side, c, depth, heads, merge):
        super().__init__()
        self.blocks = nn.Sequential(*(Block(side, c, heads) for _ in range(depth)))
        self.downsample = Merge(side, c) if merge else nn.Identity()

    def forward(self, x):
        return self.downsample(self.blocks(x))


class MILA(nn.Module):
    def __init__(self, c, depths, heads, size=224, classes=1000):
        super().__init__()
        self.patch_embed = Stem(c)
        self.layers = nn.Sequential(*(Stage(size // 4 >> i, c << i, d, h, i < 3) for i, (d, h) in enumerate(zip(depths, heads))))
        self.norm, self.head = nn.LayerNorm(c << 3), nn.Linear(c << 3, classes)

    def forward(self, x):
        return self.head(self.norm(self.layers(self.patch_embed(x))).mean(1))


def generate(name, seed, shape, center, a):
    """block.Generate: SplitMix64 seeded by FNV-1a of the name."""
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = (key ^ byte) * 0x100000001B3 % 2**64
    u = np.uint64
    z = u((key + seed * 0xD1342543DE82EF95) % 2**64) + np.arange(1, np.prod(shape) + 1, dtype=u) * u(0x9E3779B97F4A7C15)
    z = (z ^ z >> u(30)) * u(0xBF58476D1CE4E5B9)
    z = (z ^ z >> u(27)) * u(0x94D049BB133111EB)
    s = ((z ^ z >> u(31)) >> u(40)).astype(np.int64) - 2**23
    return torch.from_numpy((center + s * (a / 2**23)).astype(np.float32).reshape(shape))


def weight(name, shape, seed):
    """A tensor of block.Synthetic."""
    xavier = (3.0 / float(np.prod(shape[1:]))) ** 0.5
    if name.endswith("running_var"):
        return generate(name, seed, shape, 1, 0.5)
    if name.endswith(("running_mean", ".bias")):
        return generate(name, seed, shape, 0, 0.125)
    if len(shape) == 1:
        return generate(name, seed, shape, 1, 0.25)
    if name.endswith(("cpe1.weight", "cpe2.weight")):
        xavier *= 0.25
    elif name.endswith(("out_proj.weight", "mlp.fc2.weight")):
        xavier *= 0.5
    elif name.endswith(("conv.2.conv.weight", "conv3.1.conv.weight")):
        xavier *= 2
    return generate(name, seed, shape, 0, xavier)


def build(item):
    kind, *args = item.split("/")
    if kind == "model":
        *config, seed = CONFIGS[args[0]]
        module, inputs = MILA(*config), (generate("input", seed, (1, 3, 224, 224), 0, 2),)
        state = module.state_dict()
        module.load_state_dict({n: weight(n, t.shape, seed) if t.is_floating_point() else t for n, t in state.items()})
        return module.eval(), inputs
    args = [int(a) for a in args]
    if kind == "gemm":
        m, n, k = args
        return nn.Linear(k, n).eval(), (torch.rand(m, k),)
    side, c = args
    if kind == "dwconv":
        return dw3(c).eval(), (torch.rand(1, c, side, side),)
    return Core(side, c, c // 32).eval(), tuple(torch.rand(1, side * side, c) for _ in range(3))
