"""Cost of networks: hand-worked small ones, and published figures to the digit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgepress.models.checkpoints.registry import build
from edgepress.models.cost.cost import cost_of
from edgepress.models.cost.op_costs import RULES
from edgepress.models.errors import UsageError


def macs(model, shape, rule="core"):
    return cost_of(model, torch.zeros(shape), rule).macs


class Small(nn.Module):
    """conv-BN-ReLU, then a dense layer: 3 x 3 x 2 x 4 weights over 6 x 6, and 144 x 5."""

    def __init__(self, bias=False):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1, bias=bias), nn.BatchNorm2d(4)
        self.dense = nn.Linear(144, 5)

    def forward(self, x):
        return self.dense(F.relu(self.norm(self.conv(x))).flatten(1))


@pytest.mark.parametrize("bias", [False, True])
def test_by_hand(bias):
    model, x = Small(bias), torch.zeros(1, 2, 6, 6)
    products = 72 * 36 + 720
    costs = {rule: cost_of(model, x, rule) for rule in RULES}
    assert costs["core"].macs == products
    # Folding gives the convolution its 4 biases whether it had any or not.
    assert costs["dcase"].macs == products + 4 * 36 + 5
    assert costs["torchinfo"].macs == products + (4 * 36 if bias else 0) + 8 + 5
    assert costs["dcase"].params == costs["core"].params == 72 + 4 + 720 + 5
    assert costs["torchinfo"].params == 72 + (4 if bias else 0) + 8 + 720 + 5
    assert costs["dcase"].weight_bytes == 72 + 720 + 4 * (4 + 5)
    assert costs["dcase"].peak_activation_bytes == 144 + 72
    assert costs["core"].uncounted == ("relu",)
    assert [(layer.name, layer.operator, layer.macs) for layer in costs["core"].layers] == [
        ("conv", "conv", 2592),
        ("dense", "dense", 720),
    ]


def test_schemes():
    model, x = Small(), torch.zeros(1, 2, 6, 6)
    found = {scheme: cost_of(model, x, scheme=scheme) for scheme in ("w8a8", "w8a16", "fp16", "fp32")}
    assert {name: cost.weight_bytes for name, cost in found.items()} == {
        "w8a8": 792 + 36,
        "w8a16": 792 + 72,
        "fp16": 2 * 801,
        "fp32": 4 * 801,
    }
    assert {name: cost.peak_activation_bytes for name, cost in found.items()} == {
        "w8a8": 216,
        "w8a16": 432,
        "fp16": 432,
        "fp32": 864,
    }


def test_sums_of_the_layers_are_the_totals():
    cost = cost_of(build("cp_mobile"), torch.zeros(1, 1, 256, 64))
    assert sum(layer.macs for layer in cost.layers) == cost.macs
    assert sum(layer.params for layer in cost.layers) == cost.params
    assert sum(layer.weight_bytes for layer in cost.layers) == cost.weight_bytes
    assert len({layer.name for layer in cost.layers}) == len(cost.layers)


@pytest.mark.parametrize(
    ("config", "core", "dcase", "folded", "unfolded"),
    [
        ({"rho": 8}, 53_812_320, 54_103_324, 294_026, 295_156),
        ({"rho": 4}, 29_236_320, 29_527_324, 130_186, 131_316),
        ({"rho": 8, "n_blocks": (2, 1, 1)}, 37_837_920, 38_071_324, 187_146, 187_892),
        (
            {"rho": 8, "n_blocks": (2, 1, 1), "s2_group": 2, "cut_channels_s3": 36},
            28_839_120,
            29_056_324,
            127_046,
            127_684,
        ),
        ({"rho": 5, "n_blocks": (2, 1, 1)}, None, 28_240_924, 121_610, None),
    ],
)
def test_cp_resnet(config, core, dcase, folded, unfolded):
    model, x = build("cp_resnet", **config), torch.zeros(1, 1, 256, 44)
    cost = cost_of(model, x)
    assert (cost.macs, cost.params) == (dcase, folded)
    assert core is None or cost_of(model, x, "core").macs == core
    assert unfolded is None or cost_of(model, x, "torchinfo").params == unfolded


@pytest.mark.parametrize(
    ("base", "multiplier", "expansion", "params", "mmacs"),
    [
        (8, 1.9, 1.7, 5_722, 1.582),
        (16, 1.5, 1.7, 12_310, 4.354),
        (24, 1.5, 1.9, 30_106, 9.638),
        (32, 1.7, 1.9, 54_182, 16.803),
        (32, 2.3, 3.0, 124_862, 29.561),
    ],
)
def test_cp_mobile(base, multiplier, expansion, params, mmacs):
    model = build("cp_mobile", base_channels=base, channels_multiplier=multiplier, expansion_rate=expansion)
    cost = cost_of(model, torch.zeros(1, 1, 256, 64))
    assert cost.params == params
    assert round(cost.macs / 1e6, 3) == mmacs


def test_cp_mobile_unfolded():
    cost = cost_of(build("cp_mobile"), torch.zeros(1, 1, 256, 64), "nessi-torch")
    assert (cost.rule, cost.params) == ("torchinfo", 126_952)
    assert round(cost.macs / 1e6, 3) == 28.893


@pytest.mark.parametrize(
    ("name", "shape", "core", "bias_adds", "params", "peak"),
    [
        ("ds_cnn", (1, 49, 10), 2_656_768, 72_012, 22_604, 16_000),
        ("resnet8", (3, 32, 32), 12_501_632, 86_026, 77_706, 49_152),
        ("mobilenet", (3, 96, 96), 7_489_664, 231_554, 210_850, 55_296),
        ("autoencoder", (640,), 264_192, 1_672, 265_864, 768),
    ],
)
def test_mlperf_tiny(name, shape, core, bias_adds, params, peak):
    model, x = build(name), torch.zeros(1, *shape)
    cost = cost_of(model, x)
    assert cost.macs == core + bias_adds
    assert cost_of(model, x, "core").macs == core
    assert cost.params == params
    assert cost.peak_activation_bytes == peak


@pytest.mark.slow
def test_the_transformer_teacher():
    # 9.36 G in convolution and dense layers, 0.22 G in attention: 110 tokens of 768.
    cost = cost_of(build("passt"), torch.zeros(1, 1, 128, 100), "core")
    assert round(cost.macs / 1e9, 2) == 9.59
    assert sum(layer.macs for layer in cost.layers if layer.operator == "attention") == 12 * 2 * 110 * 110 * 768


def test_a_module_called_twice_works_twice_and_is_stored_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(self.layer(x))

    cost = cost_of(Twice(), torch.zeros(1, 4))
    assert (cost.macs, cost.params) == (2 * 20, 20)
    assert [layer.name for layer in cost.layers] == ["layer", "layer#2"]
    assert cost_of(Twice(), torch.zeros(1, 4), "torchinfo").macs == 40


def test_tied_weights_are_stored_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    cost = cost_of(model, torch.zeros(1, 4))
    assert (cost.macs, cost.params) == (32, 16)


def test_recurrent_layers_are_gate_products_times_steps():
    lstm = nn.LSTM(8, 16, num_layers=2, bidirectional=True, batch_first=True)
    weights = 2 * (4 * 16 * 8 + 4 * 16 * 16) + 2 * (4 * 16 * 32 + 4 * 16 * 16)
    biases = 2 * 2 * 2 * 4 * 16
    x = torch.zeros(1, 7, 8)
    assert cost_of(lstm, x, "core").macs == 7 * weights
    assert cost_of(lstm, x, "dcase").macs == 7 * (weights + biases)
    assert cost_of(lstm, x).params == weights + biases
    assert cost_of(lstm, x).weight_bytes == weights + 4 * biases
    assert macs(nn.GRU(8, 16), (7, 1, 8)) == 7 * 3 * 16 * (8 + 16)
    assert macs(nn.LSTM(8, 16, proj_size=4), (7, 1, 8)) == 7 * (4 * 16 * (8 + 4) + 4 * 16)
    assert macs(nn.GRUCell(8, 16), (1, 8)) == 3 * 16 * (8 + 16)


def test_attention_counts_both_products():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, x):
            return self.layer(x, x, x, need_weights=self.weights)[0]

    for weights in (True, False):  # decomposed into bmm and softmax, or one fused operator
        model = Attention()
        model.weights = weights
        assert macs(model, (1, 5, 16)) == 5 * 16 * 48 + 2 * 5 * 5 * 16 + 5 * 16 * 16


def test_the_fused_transformer_path_does_not_hide_operators():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    assert macs(layer, (1, 5, 16)) == 5 * (16 * 48 + 16 * 16 + 2 * 16 * 32) + 2 * 25 * 16


class Function(nn.Module):
    """A module of one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.zeros(6, 4))

    def forward(self, x):
        return self.function(x, self.weight)


@pytest.mark.parametrize(
    ("function", "shape", "products", "params"),
    [
        (lambda x, w: F.linear(x, w), (1, 3, 4), 3 * 24, 24),
        (lambda x, w: x @ w.T, (1, 3, 4), 3 * 24, 24),
        (lambda x, w: torch.einsum("btc,dc->btd", x, w), (1, 3, 4), 3 * 24, 24),
        (lambda x, w: torch.bmm(x, x.transpose(1, 2)) + w.sum(), (1, 3, 4), 3 * 3 * 4, 1),
        (lambda x, w: F.scaled_dot_product_attention(x, x, x) * w[0], (1, 3, 4), 2 * 3 * 3 * 4, 4),
        (lambda x, w: torch.addmm(w[:, 0], x, w.T), (1, 4), 24, 24 + 6),
        (lambda x, w: F.conv1d(x, w[:, :, None]), (1, 4, 9), 24 * 9, 24),
        (lambda x, w: F.conv2d(x, w[:, :, None, None]), (1, 4, 2, 3), 24 * 6, 24),
        (lambda x, w: F.conv3d(x, w[:, :, None, None, None]), (1, 4, 2, 2, 2), 24 * 8, 24),
        (lambda x, w: F.conv_transpose2d(x, w.T[:, :, None, None], stride=2), (1, 4, 3, 3), 24 * 9, 24),
        (lambda x, w: F.conv2d(x, F.normalize(w)[:, :, None, None]), (1, 4, 2, 2), 24 * 4, 24),
    ],
)
def test_functional_products(function, shape, products, params):
    cost = cost_of(Function(function), torch.zeros(shape), "core")
    assert (cost.macs, cost.params) == (products, params)


def test_weight_norm_is_part_of_the_weight():
    model = nn.utils.parametrizations.weight_norm(nn.Linear(4, 6))
    cost = cost_of(model, torch.zeros(1, 4))
    assert (cost.macs, cost.params) == (24 + 6, 24 + 6)


class Norms(nn.Module):
    """Normalisations that fold, and one that another reader prevents."""

    def __init__(self):
        super().__init__()
        self.first, self.folds = nn.Conv2d(2, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.second, self.stays = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.folds(self.first(x))
        y = self.second(x)
        return self.stays(y) + y


def test_a_normalisation_that_cannot_fold_is_counted_and_said():
    cost = cost_of(Norms(), torch.zeros(1, 2, 3, 3))
    assert cost.macs == 9 * (8 + 4) + 9 * 16 + 8
    assert cost.params == 8 + 4 + 16 + 8
    assert any(
        "batch normalisation stays is not folded: something else reads the output of second too" in note
        for note in cost.uncounted
    )
    assert not any("folds" in note for note in cost.uncounted)
    assert cost_of(Norms(), torch.zeros(1, 2, 3, 3), "torchinfo").macs == 9 * 8 + 9 * 16 + 16


def test_a_shared_convolution_with_two_normalisations_does_not_fold():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.one, self.two = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.two(self.conv(self.one(self.conv(x))))

    cost = cost_of(Shared(), torch.zeros(1, 4, 3, 3))
    assert cost.params == 16 + 4 + 8 + 8
    assert sum("used several times" in note for note in cost.uncounted) == 2


@pytest.mark.parametrize("order", [(nn.BatchNorm2d(2), nn.Conv2d(2, 4, 1))])
def test_a_normalisation_before_the_convolution_stays(order):
    cost = cost_of(nn.Sequential(*order), torch.zeros(1, 2, 3, 3))
    assert (cost.macs, cost.params) == (9 * 12 + 4, 12 + 4)


def test_what_is_not_counted_is_said():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("offset", torch.ones(5))
            self.unused = nn.Linear(3, 3)

        def forward(self, x):
            return torch.cumsum(torch.fft.rfft(x).abs(), -1)[..., :5] + self.offset

    found = cost_of(Odd(), torch.zeros(1, 16)).uncounted
    assert any(note.startswith("fft_rfft") for note in found)
    assert "cumsum" in found
    assert "constant offset: 5 numbers" in found
    assert "parameter unused.weight: 9 numbers that an evaluation never reads" in found


def test_weights_kept_as_buffers_are_weights():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("kernel", torch.ones(4, 2, 3, 3))

        def forward(self, x):
            return F.conv2d(x, self.kernel)

    assert cost_of(Frozen(), torch.zeros(1, 2, 3, 3)).params == 72


def test_figures_are_those_of_one_sample():
    model = Small()
    assert cost_of(model, torch.zeros(8, 2, 6, 6)) == cost_of(model, (torch.zeros(1, 2, 6, 6),))


def test_frozen_and_training_networks_are_left_as_they_are():
    model = build("ds_cnn").train().requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    cost_of(model, torch.zeros(1, 1, 49, 10))
    assert model.training
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_unknown_names_are_refused_before_tracing():
    with pytest.raises(UsageError, match="rule = 'flops'"):
        cost_of(nn.Identity(), torch.zeros(1), rule="flops")
    with pytest.raises(UsageError, match="scheme = 'w1a1'"):
        cost_of(nn.Identity(), torch.zeros(1), scheme="w1a1")
