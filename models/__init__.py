"""The small networks that the experiments train.

A network takes its norm, attention or recurrent layer as a factory, so this package imports nothing but torch.
Built after the same ``torch.manual_seed``, two networks that differ only in a norm that draws no random numbers
start from the same weights.
"""

from models.bilinear import BilinearMap
from models.convnet import ConvNet
from models.ddpm import DDPM
from models.dqn import DQNAgent, QNetwork
from models.film_denoiser import FiLMDenoiser
from models.gpt import GPT
from models.mlp import MLP
from models.per_worker import PerWorker
from models.policy import TokenPolicy
from models.replay_buffer import ReplayBuffer
from models.resnet import ResNet, ResNetBlock
from models.rnn import NormedRecurrent, RNNClassifier, RNNLanguageModel
from models.transformer import FeedForward, SelfAttention, TransformerBlock
from models.vit import ViT

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
