"""The single list of the 31 papers: what each is, where its methods live, on which page it is shown.

The home page, the command line, the README's table and the contract tests all read it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

__all__ = [
    "PAGES",
    "PAPERS",
    "TOPICS",
    "Method",
    "Page",
    "Paper",
    "get_paper",
    "paper_of",
    "papers_of_page",
    "papers_table",
]

TOPICS: dict[str, str] = {
    "normalization": "Normalization",
    "optimization": "Optimization",
    "architecture": "Architecture",
    "adaptation": "Adaptation",
    "data": "Data and rewards",
}


@dataclass(frozen=True)
class Page:
    """A page of the app: slug, title, topic, and the question it answers."""

    slug: str
    title: str
    topic: str
    question: str


@dataclass(frozen=True)
class Paper:
    """A paper, its methods by dotted name, and its page."""

    slug: str
    title: str
    authors: str
    year: int
    arxiv: str
    page: str
    methods: tuple[str, ...]

    @property
    def url(self) -> str:
        """Where to read it."""
        return f"https://arxiv.org/abs/{self.arxiv}"

    @property
    def topic(self) -> str:
        """Topic of its page."""
        return PAGES[self.page].topic


@dataclass(frozen=True)
class Method:
    """A method that a factory builds by its name.

    Attributes:
        name: what the factory takes, which is the name of its class.
        summary: one line.
        reference: its paper and arXiv id.
        paper: its entry in the catalog, None for what other methods are compared with.
    """

    name: str
    summary: str
    reference: str
    paper: Paper | None

    @classmethod
    def of(cls, path: str, summary: str, reference: str = "") -> Method:
        """The method with a dotted name, with its paper from the catalog if no other ``reference`` is given.

        Raises:
            ValueError: no reference, and no paper of the catalog names the method.
        """
        paper = paper_of(path)
        if not reference:
            if paper is None:
                raise ValueError(f"reference must be given for {path}, which no paper of the catalog names.")
            reference = f"{paper.title}, arXiv {paper.arxiv}"
        return cls(path.rpartition(".")[2], summary, reference, paper)

    def __str__(self) -> str:
        return f"{self.name}: {self.summary} ({self.reference})"


PAGES: dict[str, Page] = {
    page.slug: page
    for page in (
        Page(
            "normalization-statistics",
            "Normalization statistics",
            "normalization",
            "Why did transformers end up with LayerNorm, and what must a batch statistic do to survive there?",
        ),
        Page(
            "self-normalizing",
            "Self-normalizing networks",
            "normalization",
            "Can an activation function keep mean and variance in place without any normalization layer?",
        ),
        Page(
            "evolving-layers",
            "Evolving layers",
            "normalization",
            "What do normalization and activation look like when a search, not a person, designs them together?",
        ),
        Page(
            "shifting-statistics",
            "Shifting statistics",
            "normalization",
            "What should batch statistics remember when the data change, in training or at test time?",
        ),
        Page(
            "conditional-normalization",
            "Conditional normalization",
            "normalization",
            "How can place and style steer a network through its normalization layers?",
        ),
        Page(
            "vision-modulation",
            "Vision modulation",
            "normalization",
            "Can a picture enter a language model through its LayerNorms alone?",
        ),
        Page(
            "effective-learning-rate",
            "Effective learning rate",
            "optimization",
            "Why does a normalized network learn ever more slowly, and what happens when the norm is projected back?",
        ),
        Page(
            "schedule-refinement",
            "Schedule refinement",
            "optimization",
            "Which learning-rate schedule would the gradients of the last run have asked for?",
        ),
        Page(
            "adaptive-batch-size",
            "Adaptive batch size",
            "optimization",
            "When is a gradient too noisy, and how much larger should the batch become?",
        ),
        Page(
            "optimizer-spectra",
            "Optimizer spectra",
            "optimization",
            "What do matrix-aware optimizers do to the singular values of an update?",
        ),
        Page(
            "residual-depth",
            "Residual depth",
            "architecture",
            "How many paths run through a residual network, and how must each be scaled?",
        ),
        Page(
            "attention-entropy",
            "Attention entropy",
            "architecture",
            "What does linear attention lose when it forgets the norm of the query?",
        ),
        Page(
            "entropy-decoding",
            "Entropy decoding",
            "architecture",
            "Which tokens need the large model, and can entropy tell?",
        ),
        Page(
            "lora-limits",
            "LoRA limits",
            "adaptation",
            "When can low-rank adaptation be computed in almost linear time?",
        ),
        Page(
            "context-adapters",
            "Context adapters",
            "adaptation",
            "Where should an adapter start, given what the layer has seen?",
        ),
        Page(
            "compatible-representations",
            "Compatible representations",
            "adaptation",
            "How orthogonal must a map between two models be to keep old features usable?",
        ),
        Page(
            "modular-diffusion",
            "Modular diffusion",
            "adaptation",
            "Can concepts that were learned apart be merged in one model without retraining?",
        ),
        Page(
            "sample-reweighting",
            "Sample reweighting",
            "data",
            "Which samples deserve weight while a model is trained, judging by their loss alone?",
        ),
        Page(
            "noisy-labels",
            "Noisy labels",
            "data",
            "Can a network learn which of its own labels to trust?",
        ),
        Page(
            "reward-normalization",
            "Reward normalization",
            "data",
            "How should 0/1 rewards be normalized so that the policy gradient is least noisy?",
        ),
        Page(
            "federated-pruning",
            "Federated pruning",
            "data",
            "How small can a network be made when no device sees all the data?",
        ),
        Page(
            "adaptive-data-analysis",
            "Adaptive data analysis",
            "data",
            "How often may the same holdout be asked before its answers lie?",
        ),
        Page(
            "active-learning",
            "Active learning",
            "data",
            "Can the strategy of what to ask next be learned?",
        ),
    )
}


def _paper(slug: str, title: str, authors: str, year: int, arxiv: str, page: str, methods: str) -> Paper:
    return Paper(slug, title, authors, year, arxiv, page, tuple(f"normviz.{m}" for m in methods.split()))


# fmt: off
PAPERS: dict[str, Paper] = {
    paper.slug: paper
    for paper in (
        _paper(
            "layer-norm", "Layer Normalization", "Ba, Kiros, Hinton", 2016, "1607.06450",
            "normalization-statistics",
            "norms.LayerNorm norms.LayerNormRNN norms.LayerNormLSTM norms.LayerNormGRU norms.invariance_table",
        ),
        _paper(
            "power-norm", "PowerNorm: Rethinking Batch Normalization in Transformers",
            "Shen, Yao, Gholami, Mahoney, Keutzer", 2020, "2003.07845", "normalization-statistics",
            "norms.PowerNorm norms.PowerNormV norms.statistics_gap",
        ),
        _paper(
            "unified-norm", "Unified Normalization for Accelerating and Stabilizing Transformers",
            "Yang, Zhang, Lan, Yang, Li, Tan, Xiao, Pu", 2022, "2208.01313", "normalization-statistics",
            "norms.UnifiedNorm1d",
        ),
        _paper(
            "self-normalizing", "Self-Normalizing Neural Networks",
            "Klambauer, Unterthiner, Mayr, Hochreiter", 2017, "1706.02515", "self-normalizing",
            "norms.SELU norms.AlphaDropout",
        ),
        _paper(
            "evonorm", "Evolving Normalization-Activation Layers", "Liu, Brock, Simonyan, Le", 2020,
            "2004.02967", "evolving-layers",
            "norms.make_evonorm norms.EvolutionSearch",
        ),
        _paper(
            "adab2n", "Overcoming Recency Bias of Normalization Statistics in Continual Learning",
            "Lyu, Wang, Zhang, Sun, Su, Zhu, Jing", 2023, "2310.08855", "shifting-statistics",
            "norms.AdaptiveBalanceBatchNorm2d norms.ContinualNorm2d adaptive.ERACE adaptive.DERPlusPlus",
        ),
        _paper(
            "alpha-bn", "Test-time Batch Statistics Calibration for Covariate Shift", "You, Li, Zhao", 2021,
            "2110.04065", "shifting-statistics",
            "norms.calibrate_batchnorm adaptive.CoreLoss adaptive.OnlineAdapter",
        ),
        _paper(
            "loan", "Location-aware Adaptive Normalization", "Shams Eddin, Roscher, Gall", 2022, "2212.08208",
            "conditional-normalization", "norms.LOAN",
        ),
        _paper(
            "sstan", "Controllable Multi-domain Semantic Artwork Synthesis",
            "Huang, Iizuka, Simo-Serra, Fukui", 2023, "2308.10111", "conditional-normalization",
            "norms.SSTAN",
        ),
        _paper(
            "lavi", "LaVi: Efficient Large Vision-Language Models via Internal Feature Modulation",
            "Yue, Guo, Tang, Zhao, Zhu, Huang, Liu", 2025, "2506.16691", "vision-modulation",
            "adapters.ViLN adapters.inject_lavi",
        ),
        _paper(
            "nap", "Normalization and effective learning rates in reinforcement learning",
            "Lyle, Zheng, Khetarpal, Martens, van Hasselt, Pascanu, Dabney", 2024, "2407.01800",
            "effective-learning-rate",
            "norms.NormProjector norms.insert_normalization schedules.MatchedEffectiveLR",
        ),
        _paper(
            "refined-schedule", "When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement",
            "Defazio, Cutkosky, Mehta, Mishchenko", 2023, "2310.07831", "schedule-refinement",
            "schedules.refine_schedule schedules.RefinedScheduleLR schedules.ScheduledIterates",
        ),
        _paper(
            "adadagrad", "AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods",
            "Lau, Liu, Kolar", 2024, "2402.11215", "adaptive-batch-size",
            "adaptive.AdaptiveBatchSize adaptive.norm_test optim.AdAdaGrad optim.AdAdaGradNorm optim.AdaGradNorm",
        ),
        _paper(
            "multi-norm", "Gradient Multi-Normalization for Stateless and Scalable LLM Training",
            "Scetbon, Ma, Gong, Meeds", 2025, "2502.06742", "optimizer-spectra",
            "optim.MultiNormGD optim.SinkGD optim.sr_sinkhorn",
        ),
        _paper(
            "swan", "SWAN: SGD with Normalization and Whitening Enables Stateless LLM Training",
            "Ma, Gong, Scetbon, Meeds", 2024, "2412.13148", "optimizer-spectra", "optim.SWAN optim.SWANFast",
        ),
        _paper(
            "normuon", "NorMuon: Making Muon more efficient and scalable", "Li, Liu, Liang, Chen, Zhao", 2025,
            "2510.05491", "optimizer-spectra", "optim.Muon optim.NorMuon optim.DistributedNorMuon",
        ),
        _paper(
            "conda", "Conda: Column-Normalized Adam for Training Large Language Models Faster",
            "Wang, Zhou, Dong, Li, Li, Zhou, Lao, Fang, Lin", 2025, "2509.24218", "optimizer-spectra",
            "optim.Conda",
        ),
        _paper(
            "fira", "Fira: Can We Achieve Full-rank Training of LLMs Under Low-rank Constraint?",
            "Chen, Feng, Li, Lai, Yue, Yuan, Wang", 2024, "2410.01623", "optimizer-spectra",
            "optim.FiraAdamW optim.FiraRMSProp optim.GaLoreAdamW optim.GaLoreRMSProp",
        ),
        _paper(
            "residual-depth", "On residual network depth", "Dherin, Munn", 2025, "2510.03470",
            "residual-depth", "residual.ResidualTower residual.expansion_terms residual.path_count",
        ),
        _paper(
            "nalaformer", "NaLaFormer: Norm-Aware Linear Attention for Transformer Models",
            "Meng, Luo, Huo, Wang, Li, Zhang", 2025, "2506.21137", "attention-entropy",
            "attention.NormAwareLinearAttention attention.NaLaFormer attention.attention_weights",
        ),
        _paper(
            "entropy-adaptive-decoding",
            "Entropy Adaptive Decoding: Dynamic Model Switching for Efficient Inference", "Simonds", 2025,
            "2502.06833", "entropy-decoding", "decoding.EntropyAdaptiveDecoder",
        ),
        _paper(
            "lora-limits", "Computational Limits of Low-Rank Adaptation (LoRA) for Transformer-Based Models",
            "Hu, Su, Kuo, Song, Liu", 2024, "2406.03136", "lora-limits",
            "adapters.LoRAAttention adapters.lora_attention_gradients",
        ),
        _paper(
            "corda", "CorDA: Context-Oriented Decomposition Adaptation of Large Language Models",
            "Yang, Li, Zhou, Song, Wu, Nie, Ghanem", 2024, "2406.05223", "context-adapters",
            "adapters.LoRALinear adapters.corda_init",
        ),
        _paper(
            "lambda-orthogonality",
            "λ-Orthogonality Regularization for Compatible Representation Learning",
            "Ricci, Biondi, Pernici, Patras, Del Bimbo", 2025, "2509.16664", "compatible-representations",
            "adapters.AffineAdapter adapters.LambdaOrthogonalityLoss",
        ),
        _paper(
            "orthogonal-adaptation", "Orthogonal Adaptation for Modular Customization of Diffusion Models",
            "Po, Yang, Aberman, Wetzstein", 2023, "2312.02432", "modular-diffusion",
            "adapters.OrthogonalLoRALinear adapters.SharedOrthogonalBasis adapters.merge_adapters",
        ),
        _paper(
            "dynamic-reweighting", "Dynamic Loss-Based Sample Reweighting for Improved LLM Pretraining",
            "Sow, Woisetschläger, Bulusu, Wang, Jacobsen, Liang", 2025, "2502.06733", "sample-reweighting",
            "weighting.DynamicLossReweighter weighting.sample_weights",
        ),
        _paper(
            "meta-rescaling", "Learning from Noisy Labels via Self-Taught On-the-Fly Meta Loss Rescaling",
            "Heck, Geishauser, Lubis, van Niekerk, Feng, Lin, Ruppik, Vukovic, Gašić", 2024, "2412.12955",
            "noisy-labels", "weighting.STORM weighting.LossRescaler",
        ),
        _paper(
            "bnpo", "BNPO: Beta Normalization Policy Optimization", "Xiao, Zhang, Cao", 2025, "2506.02864",
            "reward-normalization", "weighting.BNPO weighting.bnpo_advantage",
        ),
        _paper(
            "fedtiny", "Distributed Pruning Towards Tiny Neural Networks in Federated Learning",
            "Huang, Zhang, Sun, Fang, Yuan, Wu", 2022, "2212.01977", "federated-pruning",
            "federated.FedTiny federated.AdaptiveBNSelection federated.CandidatePool federated.SparseModel "
            "federated.magnitude_mask federated.TopKBuffer federated.prune_and_grow",
        ),
        _paper(
            "adaptive-data-analysis", "Preserving Statistical Validity in Adaptive Data Analysis",
            "Dwork, Feldman, Hardt, Pitassi, Reingold, Roth", 2014, "1411.2664", "adaptive-data-analysis",
            "adaptive.Thresholdout adaptive.SparseValidate",
        ),
        _paper(
            "active-learning", "Learning to Actively Learn: A Robust Approach", "Zhang, Jain, Jamieson", 2020,
            "2010.15382", "active-learning", "adaptive.HistoryPolicy adaptive.learn_robust_policy",
        ),
    )
}
# fmt: on


def get_paper(slug: str) -> Paper:
    """The paper with that slug.

    Raises:
        ValueError: there is none; the message has the nearest slugs.
    """
    from normviz.validation import check_choice

    return PAPERS[check_choice("paper", slug, PAPERS)]


def paper_of(method: str) -> Paper | None:
    """The paper that names the method with that dotted name, such as "normviz.optim.SWAN"; None if none does."""
    return next((paper for paper in PAPERS.values() if method in paper.methods), None)


def papers_of_page(page: str) -> list[Paper]:
    """The papers shown on a page, in catalog order."""
    return [paper for paper in PAPERS.values() if paper.page == page]


def papers_table(built: Collection[str]) -> str:
    """A table of all papers in Markdown: topic, paper, page, and whether the page is among those ``built``."""
    lines = ["| topic | paper | page | status |", "|---|---|---|---|"]
    for paper in sorted(PAPERS.values(), key=lambda p: (list(TOPICS).index(p.topic), p.page not in built)):
        status = "built" if paper.page in built else "planned"
        reference = f"[{paper.title}]({paper.url}), {paper.authors.split(',')[0]} et al., {paper.year}"
        lines.append(f"| {TOPICS[paper.topic]} | {reference} | `{paper.page}` | {status} |")
    return "\n".join(lines)
