"""The small networks that the experiments train.

A network takes its norm, attention or recurrent layer as a factory, so this package imports nothing but torch.
Built after the same ``torch.manual_seed``, two networks that differ only in a norm that draws no random numbers
start from the same weights.
"""

from normviz.models.bilinear import BilinearMap
from normviz.models.convnet import ConvNet
from normviz.models.ddpm import DDPM
from normviz.models.dqn import DQNAgent, QNetwork
from normviz.models.film_denoiser import FiLMDenoiser
from normviz.models.gpt import GPT
from normviz.models.mlp import MLP
from normviz.models.per_worker import PerWorker
from normviz.models.policy import TokenPolicy
from normviz.models.replay_buffer import ReplayBuffer
from normviz.models.resnet import ResNet, ResNetBlock
from normviz.models.rnn import NormedRecurrent, RNNClassifier, RNNLanguageModel
from normviz.models.transformer import FeedForward, SelfAttention, TransformerBlock
from normviz.models.vit import ViT

__all__ = [
    "DDPM",
    "GPT",
    "MLP",
    "BilinearMap",
    "ConvNet",
    "DQNAgent",
    "FeedForward",
    "FiLMDenoiser",
    "NormedRecurrent",
    "PerWorker",
    "QNetwork",
    "RNNClassifier",
    "RNNLanguageModel",
    "ReplayBuffer",
    "ResNet",
    "ResNetBlock",
    "SelfAttention",
    "TokenPolicy",
    "TransformerBlock",
    "ViT",
]
