"""The models of the paper's ablation (arXiv 2405.16605, tables 1 and 2) in PyTorch: Swin-T's layout with linear attention
over all tokens, and each distinction of Mamba and each position encoding alone. Parameters have the names, and switches
the meaning, of block.LinearAttention, with which the logits agree. ROWS are the configurations that are trained."""
import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

import mila
from mila import MLP, Depthwise, LayerNorm, image, rotate, rotations, tokens
from scan import scan


@dataclass(frozen=True)
class Config:
    """The keys are those of block.LinearAttention."""
    embed_dim: int = 32
    depths: tuple = (2, 4, 2)
    num_heads: tuple = (1, 2, 4)
    num_classes: int = 200
    img_size: int = 64
    input_gate: bool = False
    forget_gate: bool = False
    shortcut: bool = False
    no_normaliser: bool = False
    single_head: bool = False
    block: str = ""
    ape: bool = False
    lepe: bool = False
    cpe: bool = False
    rope: bool = False


BASELINE = Config()
# The paper's rows. MILA is as much narrower and deeper than the baseline as MILA-T is than Swin-T, and has the
# parameters and multiply-adds of block-sub.
ROWS = {"baseline": BASELINE}
ROWS |= {name.replace("_", "-"): replace(BASELINE, **{name: True}) for name in ("input_gate", "forget_gate", "shortcut")}
ROWS |= {"no-normaliser": replace(BASELINE, no_normaliser=True), "single-head": replace(BASELINE, single_head=True)}
ROWS |= {"block-" + b: replace(BASELINE, block=b) for b in ("all", "sub")}
ROWS |= {name: replace(BASELINE, **{name: True}) for name in ("ape", "lepe", "cpe", "rope")}
ROWS["mila"] = mila.Config(embed_dim=24, depths=(2, 4, 4), num_heads=(1, 2, 4), mlp_ratio=4.0)


def build(config):
    return mila.MILA(config) if isinstance(config, mila.Config) else LinearAttention(config)


class Attention(nn.Module):
    def __init__(self, config, stage):
        super().__init__()
        self.config, self.heads = config, config.num_heads[stage]
        c = config.embed_dim << stage
        self.inner = e = 2 * c if config.block == "all" else c
        per_head = e // self.heads * 3 // 4 if config.block == "all" else e // self.heads
        self.keys = 32 if config.single_head else self.heads * per_head
        if config.block:
            self.qk = nn.Linear(e, 2 * self.keys)
        else:
            self.qkv = nn.Linear(c, 2 * self.keys + e)
        if config.input_gate or config.forget_gate:
            self.dt1 = nn.Linear(e if config.block else c, -(-c // 16), bias=not config.block)
            self.dt2 = nn.Linear(-(-c // 16), e)
        if config.forget_gate:
            n = self.keys if config.single_head else per_head
            self.A_log = nn.Parameter(torch.arange(1.0, n + 1).log().repeat(e, 1))
        if config.shortcut:
            self.D = nn.Parameter(torch.ones(e))
        if config.lepe:
            self.lepe = Depthwise(e)
        self.proj = nn.Linear(e, c)

    def initialise(self):
        """An input gate alone begins at 1, which is the baseline; gates that forget begin as Mamba's."""
        if hasattr(self, "dt2"):
            if self.config.forget_gate:
                delta = torch.exp(torch.linspace(math.log(0.001), math.log(0.1), self.inner)[torch.randperm(self.inner)])
            else:
                delta = torch.ones(self.inner)
            with torch.no_grad():
                self.dt2.bias.copy_(torch.log(torch.expm1(delta)))

    def split(self, x):
        """(B, N, C) -> (B, N, heads, C / heads); a single head's query or key counts as shared by all."""
        if self.config.single_head and x.shape[-1] == self.keys:
            return x[:, :, None]
        return x.unflatten(-1, (self.heads, -1))

    def forward(self, u, v, hw, rope):
        """u are the normed inputs; v the values of a block design, else None; rope the rotations, or None."""
        c = self.config
        if c.block:
            q, k = self.qk(v).chunk(2, -1)
            gated = v
        else:
            q, k, v = self.qkv(u).split([self.keys, self.keys, self.inner], -1)
            gated = u
        q, k = F.elu(q) + 1, F.elu(k) + 1
        values, delta = v, None
        if c.input_gate or c.forget_gate:
            delta = F.softplus(self.dt2(self.dt1(gated)).float())
        if c.input_gate:
            values = v * delta.to(v.dtype)
        y = self.recurrence(q, k, values, delta) if c.forget_gate else self.attention(q, k, values, rope)
        y = y.to(v.dtype)
        if c.shortcut:
            y = y + v * self.D.to(v.dtype)
        if c.lepe:
            y = y + self.lepe(v, hw)
        return y

    def attention(self, q, k, v, rope):
        """y = q S / (q Z) over all tokens; Z is of the keys before their rotation."""
        n = q.shape[1]
        norm = None
        if not self.config.no_normaliser:
            norm = self.split(q * k.mean(1, keepdim=True)).sum(-1, keepdim=True) + 1e-6
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        q, k, v = (self.split(t).transpose(1, 2) for t in (q, k, v))
        if norm is None:
            y = q @ (k.transpose(2, 3) @ v)
            return y.transpose(1, 2).flatten(2)
        y = (q @ (k.transpose(2, 3) @ v * (1 / n))).transpose(1, 2)
        return (y * (1 / norm).to(y.dtype)).flatten(2)

    def recurrence(self, q, k, v, delta):
        """The causal form in the order of rows. The sum of keys does not decay."""
        q, k, v, delta = (self.split(t) for t in (q, k, v, delta))
        if self.config.single_head:
            q, k = (t.expand(-1, -1, self.heads, -1) for t in (q, k))
        a = -torch.exp(self.A_log).unflatten(0, (self.heads, -1))
        y = scan(q, k, v, delta, a)
        if not self.config.no_normaliser:
            y = y / ((q.float() * k.float().cumsum(1)).sum(-1, keepdim=True) + 1e-6)
        return y.flatten(2)


class Block(nn.Module):
    def __init__(self, config, stage):
        super().__init__()
        self.config = config
        c = config.embed_dim << stage
        if config.ape:
            side = config.img_size // (4 << stage)
            self.ape = nn.Parameter(torch.randn(1, side * side, c) * 0.02)
        if config.cpe:
            self.cpe = Depthwise(c, residual=True)
        self.norm1, self.attn = LayerNorm(c), Attention(config, stage)
        e = self.attn.inner
        if config.block:
            self.in_proj, self.act_proj, self.dwc = nn.Linear(c, e), nn.Linear(c, e), Depthwise(e)
        if config.block != "all":
            self.norm2, self.mlp = LayerNorm(c), MLP(c, 4 * c)

    def forward(self, x, hw, rope):
        c = self.config
        if c.ape:
            x = x + self.ape.to(x.dtype)
        if c.cpe:
            x = self.cpe(x, hw)
        u = self.norm1(x)
        if c.block:
            v = F.silu(self.dwc(self.in_proj(u), hw))
            y = self.attn(u, v, hw, rope) * F.silu(self.act_proj(u))
        else:
            y = self.attn(u, None, hw, rope)
        x = x + self.attn.proj(y)
        if c.block != "all":
            x = x + self.mlp(self.norm2(x))
        return x


class Merge(nn.Module):
    """Swin's patch merging: four neighbours become one token of twice the channels."""

    def __init__(self, c):
        super().__init__()
        self.norm, self.reduction = LayerNorm(4 * c), nn.Linear(4 * c, 2 * c, bias=False)

    def forward(self, x, hw):
        h, w = hw
        x = x.view(len(x), h // 2, 2, w // 2, 2, -1).permute(0, 1, 3, 4, 2, 5)  # columns of two before rows of two
        return self.reduction(self.norm(x.reshape(len(x), h * w // 4, -1)))


class Stage(nn.Module):
    def __init__(self, config, stage):
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config, stage) for _ in range(config.depths[stage]))
        last = stage + 1 == len(config.depths)
        self.downsample = nn.Identity() if last else Merge(config.embed_dim << stage)

    def forward(self, x, hw):
        rope = None
        if self.config.rope:
            rope = rotations(*hw, self.blocks[0].attn.keys, x.device, x.dtype)
        for block in self.blocks:
            x = block(x, hw, rope)
        if isinstance(self.downsample, Merge):
            x, hw = self.downsample(x, hw), (hw[0] // 2, hw[1] // 2)
        return x, hw


class PatchEmbed(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.proj, self.norm = nn.Conv2d(3, c, 4, 4), LayerNorm(c)

    def forward(self, x):
        x = self.proj(x)
        return self.norm(tokens(x)), tuple(x.shape[2:])


class LinearAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        c, last = config.embed_dim, len(config.depths) - 1
        self.patch_embed = PatchEmbed(c)
        self.layers = nn.ModuleList(Stage(config, i) for i in range(len(config.depths)))
        self.norm, self.head = LayerNorm(c << last), nn.Linear(c << last, config.num_classes)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.trunc_normal_(m.weight, std=0.02)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
        for m in self.modules():
            if isinstance(m, Attention):
                m.initialise()

    def forward(self, x):
        x, hw = self.patch_embed(x)
        for stage in self.layers:
            x, hw = stage(x, hw)
        return self.head(self.norm(x).mean(1))
