"""How many paths run through a residual network, and how must each be scaled?"""

from normviz.experiments.residual_depth.path_levels import level_growth_figure, level_weights_figure
from normviz.ui import Exact, Maths, experiment_page
from normviz.ui.own_data import own_rows_widget
from normviz.ui.panels.residual_depth import expansion_panel

INTRO = r"""
A residual network adds, module after module, something to a stream: $h \leftarrow h + \lambda f(h)$. Multiply that out
for $n$ modules and you get a **sum over paths**: the input may skip every module, or pass through any choice of them.
There are $2^n$ paths, and $\binom nk$ of them pass through exactly $k$ modules: these form **level** $k$, and level $k$
carries the factor $\lambda^k$. A deep residual network is an ensemble of many shallow ones.

With $\lambda=1$ the paths simply add up: the more modules, the more paths, and the output explodes. The paper says
that normalization layers were needed for this reason. Its own answer is to scale every module:

- **λ = 1/n** keeps the sum below a constant even if all paths point the same way;
- **λ = 1/√n** is enough if they are independent, as with fresh random weights, and lets longer paths take part;
- **SkipInit** learns a multiplier per module, from 0; **Fixup** starts every branch at 0; **BatchNorm** in the branch
  makes each module small compared with a stream that has grown. All three arrive at a small effective $\lambda$.

Deep towers are trained on handwritten digits (of 8 x 8 pixels; MNIST-1D and MNIST can be chosen), on the same batches.
Bands are the range over seeds.
"""

READING = r"""
**How to read it.** Drag the moment of the training to 0 and look at *Signal through the depth*: dotted is what the
theory of independent paths predicts, $(1+2\lambda^2)^{i/2}$ times the input after $i$ modules. λ = 1 leaves the chart
and diverges at once, so it has no line over the steps. *Size of each level* shows the ensemble itself: how much of the
stream comes from paths through exactly $k$ modules, before and during training. *Effective scale* puts all methods on
one axis: how much each module adds to what is already there. On the charts of a sweep, crosses mark scales that
diverged.

Under *Taken apart* the moment means depth, not training. A ranking of methods at one learning rate means little: 1/n
can use larger ones, which is why accuracies are compared at every method's own best rate.

**What to keep in mind.** "λ = 1/n kills the high levels" is not quite right: they fall like $1/k!$, whatever the
depth, and level 2 is still half of level 1. "1/√n is bounded" holds for independent paths only. The theorem needs
smooth modules; with ReLU it holds on the straight piece around each example, and that is what the level chart computes.
BatchNorm's levels grow on that chart like those of λ = 1: the expansion is taken at the input, where the stream has not
grown yet, and the first levels say nothing about the whole. How small its modules become shows in *Effective scale*.

**What is not tested here.** 1000-layer convolutional networks on CIFAR-10, the paper's own setting.
"""

EXACT = Exact(
    "Paths and levels, exactly",
    r"""
No training here: closed forms that follow the sliders while you drag. On the left, the number of paths on each level
and what the level weighs once it carries $\lambda^k$. With $\lambda=1/n$ the weights are $1/k!$ at any depth; with
$1/\sqrt n$ the hill stands near $k=\sqrt n$; with $1$ at $n/2$. On the right, the whole sum: $(1+\lambda s)^n$ if all
paths point the same way, $(1+\lambda^2s^2)^{n/2}$ if they are independent.
""",
    lambda: {"weights": level_weights_figure(), "growth": level_growth_figure()},
    expansion_panel,
)

MATHS = (
    Maths(
        "Residual expansion",
        r"""
$h_n = (1+\lambda f_n)\circ\dots\circ(1+\lambda f_1)(x) = \sum_k \lambda^k T_k(x)$

For affine $f_i(h)=W_ih+b_i$ this is exact and finite:

$$T_k = \sum_{i_1<\dots<i_k} W_{i_k}\cdots W_{i_2}\, f_{i_1}(x)$$

with $\binom nk$ summands. Nobody enumerates them: adding module $i$ gives

$$T_k \leftarrow T_k + W_i\,T_{k-1}$$

For smooth modules $T_1=\sum_i f_i(x)$, $T_2=\sum_{i<j} f_j'(x)[f_i(x)]$, and

$$T_3 = \sum_{i<j<l} f_l'[f_j'[f_i]] + f_l''[f_i,f_j] \;+\; \tfrac12\sum_{i<l} f_l''[f_i,f_i]$$

The code carries the stream as a power series in $\lambda$.
""",
        "residual/expansion.py",
        ("_linear_terms", "_jet_terms"),
    ),
    Maths(
        "Counting and weights",
        r"""
Level $k$ has $\binom nk$ paths; its average path weighs

$$c_k = \binom nk \lambda^k$$

$\lambda=1$: $\sum_k c_k = 2^n$. $\lambda=1/n$: $c_k\to 1/k!$ and $\sum_k c_k \to e$. $\lambda=1/\sqrt n$:
$\sum_k c_k\approx e^{\sqrt n-1/2}$, the heaviest level is near $\sqrt n$.

Independent zero-mean modules of size $s$: $\mathrm E\|h_n\|^2 = (1+\lambda^2s^2)^n\|x\|^2$, so $1/\sqrt n$ gives
$e^{s^2}$.

$\binom{1000}{500}$ has 300 digits: logarithms of factorials, not products.
""",
        "residual/counting.py",
        ("log_level_weights", "expected_norm_ratio", "tree_count"),
    ),
    Maths(
        "The tower",
        r"""
$$h_i = h_{i-1} + \lambda_i f_i(h_{i-1})$$

The scale multiplies the branch, not the skip and not the branch's input. $\lambda=1$, $1/\sqrt n$, $1/n$, or one number
per module.
""",
        "residual/_tower.py",
        ("ResidualTower.branch", "ResidualTower.features"),
    ),
    Maths(
        "SkipInit and Fixup",
        r"""
**SkipInit**: $h + \alpha f(h)$ with a learned scalar $\alpha$ per module, at first 0. In the first step only the
$\alpha$ move.

**Fixup**: the last layer of every branch and the classifier start at 0; the other layers of a branch of $m$ layers are
He's weights times $L^{-1/(2m-2)}$ for $L$ modules; scalar biases before every layer and activation, a scalar multiplier
after the last, all learned at a tenth of the rate.
""",
        "residual/_fixup.py",
        ("FixupBlock.forward", "fixup_init_"),
    ),
    Maths(
        "Geometric complexity",
        r"""
$$\mathrm{GC}(f) = \frac1{|X|}\sum_{x\in X}\Bigl\|\frac{\partial f}{\partial x}\Bigr\|_F^2$$

How strongly the function varies around its data. The derivative is with respect to the *input*. The identity on
$\mathbb R^d$ has $d$; a tower with modules of Lipschitz constant $L$ at most $d\,(1+\lambda L)^{2n}$.
""",
        "residual/complexity.py",
        ("geometric_complexity",),
    ),
)

experiment_page(
    "residual-depth",
    intro=INTRO,
    reading=READING,
    maths=MATHS,
    widgets={"data": own_rows_widget},
    exact=EXACT,
)
