from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from normviz.models import RNNClassifier, RNNLanguageModel
from tests.models.cases import LoopRNN


def test_language_model_equals_numpy_elman() -> None:
    torch.manual_seed(0)
    net = RNNLanguageModel(9, rnn=nn.RNN, embedding_dim=4, hidden=5).double()
    tokens = torch.randint(9, (2, 6))
    s = {name: p.numpy() for name, p in net.state_dict().items()}
    logits = np.empty((2, 6, 9))
    for n in range(2):
        h = np.zeros(5)
        for t in range(6):
            x = s["embedding.weight"][tokens[n, t]]
            pre = s["layers.0.weight_ih_l0"] @ x + s["layers.0.weight_hh_l0"] @ h
            h = np.tanh(pre + s["layers.0.bias_ih_l0"] + s["layers.0.bias_hh_l0"])
            logits[n, t] = s["head.weight"] @ h + s["head.bias"]
    np.testing.assert_allclose(net(tokens).detach().numpy(), logits, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, LoopRNN])
def test_layout_does_not_matter(kind: type[nn.Module]) -> None:
    outputs = []
    for batch_first in (True, False):
        torch.manual_seed(0)
        net = RNNLanguageModel(9, rnn=partial(kind, batch_first=batch_first), hidden=5, num_layers=2)
        outputs.append(net(torch.arange(6).reshape(2, 3)))
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, LoopRNN])
def test_run_resumes_and_is_causal(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net = RNNLanguageModel(9, rnn=kind, hidden=5, num_layers=2)
    tokens = torch.randint(9, (2, 7))
    whole, states = net.run(tokens)
    first, middle = net.run(tokens[:, :3])
    second, last = net.run(tokens[:, 3:], middle)
    torch.testing.assert_close(torch.cat((first, second), 1), whole)
    torch.testing.assert_close(last, states)
    changed = tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 9
    torch.testing.assert_close(net(changed)[:, :4], whole[:, :4], rtol=0, atol=0)
    assert not torch.equal(net(changed)[:, 4:], whole[:, 4:])


def test_same_embedding_and_head_for_every_layer() -> None:
    nets = []
    for kind in (nn.LSTM, nn.GRU, LoopRNN):
        torch.manual_seed(0)
        nets.append(RNNLanguageModel(9, rnn=kind))
    for net in nets[1:]:
        assert torch.equal(net.embedding.weight, nets[0].embedding.weight)
        assert torch.equal(net.head.weight, nets[0].head.weight)


def test_classifier_reads_the_last_step() -> None:
    torch.manual_seed(0)
    net = RNNClassifier(2, 3, rnn=nn.GRU, hidden=5)
    x = torch.randn(4, 6, 2)
    gru = net.layers[0]
    y, _ = gru(x.transpose(0, 1))
    torch.testing.assert_close(net.features(x), y[-1])
    torch.testing.assert_close(net(x), y[-1] @ net.head.weight.T + net.head.bias)


def test_dropout_between_layers_only() -> None:
    torch.manual_seed(0)
    single = RNNClassifier(2, 3, rnn=nn.GRU, dropout=0.5)
    double = RNNClassifier(2, 3, rnn=nn.GRU, dropout=0.5, num_layers=2)
    x = torch.randn(4, 6, 2)
    assert torch.equal(single(x), single(x))
    assert not torch.equal(double(x), double(x))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"vocab_size": 0}, "vocab_size"),
        ({"embedding_dim": 0}, "embedding_dim"),
        ({"hidden": 0}, "hidden"),
        ({"num_layers": 0}, "num_layers"),
        ({"dropout": -0.1}, "dropout"),
        ({"rnn": None}, "rnn"),
        ({"rnn": nn.Linear}, "batch_first"),
    ],
)
def test_language_model_errors(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        RNNLanguageModel(**({"vocab_size": 9, "rnn": nn.GRU} | arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize("arguments", [{"in_features": 0}, {"num_classes": 0}, {"hidden": -1}])
def test_classifier_errors(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        RNNClassifier(**({"in_features": 1, "num_classes": 9, "rnn": nn.GRU} | arguments))  # type: ignore[arg-type]


def test_number_of_states() -> None:
    with pytest.raises(ValueError, match="states"):
        RNNLanguageModel(9, rnn=nn.GRU).run(torch.zeros(1, 2, dtype=torch.long), [None, None])
