"""Can an activation function keep mean and variance in place without any normalization layer?"""

from normviz.experiments.self_normalizing.moment_bounds import contraction_figure, variance_bounds_figure
from normviz.experiments.self_normalizing.moment_map import moment_map_figure
from normviz.ui import Exact, Maths, experiment_page
from normviz.ui.own_data import own_table_widget

INTRO = r"""
In a deep network every layer rescales what it gets. Do it 32 times, and a factor of 1.2 per layer has become 340: the
signal explodes, or fades away. Normalization layers measure mean and variance and set them back, at every layer.

Self-normalizing networks (SNNs) do without. They choose the **activation function** so that a layer by itself pulls
mean and variance towards 0 and 1. Three parts belong together:

- **SELU**: straight with slope $\lambda = 1.0507$ to the right of zero, a curve down to $-\lambda\alpha = -1.758$ to
  the left. The slope above 1 lets small variances grow, the flat left end makes large ones shrink.
- **LeCun weights**: drawn with variance 1/(number of inputs), so that the weights of a unit sum to about 0 and their
  squares to about 1.
- **Alpha dropout**: a dropped unit is set to SELU's floor $-1.758$ instead of 0, and the result is shifted and scaled,
  so that dropping units changes neither mean nor variance.

Deep networks of equal layers are trained on the same batches: SNNs, and ReLU networks with batch norm, layer norm or
weight norm, and alone. Bands are the range over seeds.
"""

READING = r"""
**How to read it.** *Variance, layer by layer* is the heart of the page: the horizontal axis is the depth of the
network, and every curve is the whole network at one moment. Drag the moment of the training back to 0: the SNN's curve
lies close to the dotted prediction of the theory. Then let it run: the weights move, and the curve must not leave the
neighbourhood of 1 if the theory is to help. A plain ReLU network has nothing that would bring it back.

**What holds, and what does not.** Without dropout the deep SNN learns where the others hardly start, at this learning
rate. *With* alpha dropout it keeps mean and variance just as well, yet at 32 layers of 64 units it hardly learns:
keeping the variance is not keeping the signal. Each layer replaces one unit in twenty by noise of the same size, and
what is left of a difference between two inputs after 32 such layers is small. With 8 layers it learns.

**Beyond the presets.** Add *SNN, plain dropout*, choose another fixed point for SELU, or raise the learning rate:
batch norm likes larger ones. With *MNIST-1D* or *MNIST* as the data there are more examples to be told apart.

**What is not tested here.** The comparison over 121 UCI tasks with chosen depth, rate and dropout, the records on Tox21
and HTRU2: they need those data and thousands of runs.
"""

EXACT = Exact(
    "One layer, exactly",
    r"""
Assume that a unit adds up many inputs of mean $\mu$ and variance $\nu$. Then it is normally distributed with mean
$\mu\omega$ and variance $\nu\tau$, where $\omega$ is the sum of its weights and $\tau$ the sum of their squares, and
the mean and variance behind SELU can be written down: a map of the half-plane into itself. Follow the arrows: wherever
you start, the path runs into the fixed point. Where the plane is green, close starts come closer with every layer.

Move $\tau$ to 2, which is what He's weights do: the fixed point moves to mean 1.78 and variance 18.5. Move it beyond
2.66: there is none any more. Choose *fixed point* to have $\alpha$ and $\lambda$ computed for a point of your own; with
weights that do not sum to zero it may repel, which the text above the chart then says. The dashed box is theorem 1's.

The two charts below check the paper's three theorems on grids, with the library's own functions.
""",
    lambda: {"map": moment_map_figure(), "bounds": variance_bounds_figure(), "box": contraction_figure()},
)

MATHS = (
    Maths(
        "SELU and its weights",
        r"""
$$\mathrm{selu}(x) = \lambda \begin{cases} x & x > 0 \\ \alpha\,(e^x - 1) & x \le 0 \end{cases}$$

$$\alpha = \frac{-\sqrt{2/\pi}}{\operatorname{erfc}(1/\sqrt2)\,e^{1/2}-1} = 1.6733 \qquad \lambda = 1.0507$$

are the two numbers for which mean 0 and variance 1 are mapped to themselves.

Weights: $w \sim N(0, 1/n)$ for $n$ inputs, biases 0. Then $\omega=\sum_i w_i$ has mean 0 and $\tau=\sum_i w_i^2$ has
mean 1.
""",
        "norms/self_normalizing.py",
        ("selu", "lecun_normal_"),
    ),
    Maths(
        "Alpha dropout",
        r"""
With $d \sim \mathrm{Bernoulli}(q)$ for every unit, $q = 1-p$, and $\alpha' = -\lambda\alpha$:

$$y = a\,\bigl(d\,x + (1-d)\,\alpha'\bigr) + b$$

Dropping changes the mean to $q\mu + p\alpha'$ and the variance to $q\,(p(\alpha'-\mu)^2+\nu)$. So

$$a = \sqrt{\frac{\nu}{q\,(p\,(\alpha'-\mu)^2+\nu)}} \qquad b = \mu - a\,(q\mu + p\alpha')$$

restores both. At test time: nothing.
""",
        "norms/self_normalizing.py",
        ("alpha_dropout_affine", "AlphaDropout.forward"),
    ),
    Maths(
        "Moment map",
        r"""
With $z \sim N(m, v)$, $m=\mu\omega$, $v=\nu\tau$, $\Phi = P(z>0)$, $\varphi = e^{-m^2/2v}/\sqrt{2\pi}$ and
$E_k = \mathrm E[e^{kz};\,z\le0]$:

$$\tilde\mu = \lambda\,\bigl(m\Phi + \sqrt v\,\varphi + \alpha\,(E_1 - (1-\Phi))\bigr)$$

$$\tilde\nu = \lambda^2\bigl((m^2+v)\Phi + m\sqrt v\,\varphi + \alpha^2(E_2 - 2E_1 + 1-\Phi)\bigr) - \tilde\mu^2$$

The Jacobian $J$ of $(\mu,\nu)\mapsto(\tilde\mu,\tilde\nu)$ has spectral norm 0.7877 at $(0,1)$: the distance to the
fixed point shrinks by at least that factor with every layer.
""",
        "norms/_selu_integrals.py",
        ("pieces", "apply_map", "apply_jacobian"),
    ),
    Maths(
        "Any fixed point",
        r"""
Ask that $(\mu^*, \nu^*)$ be mapped to itself. With $\beta=\lambda\alpha$ these are a line and an ellipse in the plane
of $(\lambda,\beta)$:

$$P\lambda + N\beta = \mu^* \qquad R\lambda^2 + S\beta^2 = \mu^{*2}+\nu^*$$

with $P = m\Phi+\sqrt v\varphi$, $N = E_1-(1-\Phi)$, $R = (m^2+v)\Phi + m\sqrt v\varphi$, $S = E_2-2E_1+1-\Phi$.
They meet at most once with both numbers positive. Whether the point *attracts* is another question: look at $J$ there.
""",
        "norms/selu_moments.py",
        ("selu_parameters", "is_contraction"),
    ),
)

experiment_page(
    "self-normalizing",
    intro=INTRO,
    reading=READING,
    maths=MATHS,
    widgets={"data": own_table_widget},
    exact=EXACT,
)
